/* What the pages do without asking the server: theme, keys, copying, the picker's chips, scrolling that stays put, and
   saying so when the server no longer knows who is here. */
(() => {
  "use strict";
  const THEME_KEY = "playground-theme";
  const visible = (element) => element && element.offsetParent !== null;
  const first = (selector) => [...document.querySelectorAll(selector)].find(visible);

  // --- theme: the person's choice, else the system's ---
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  function wantsDark() {
    let kept = null;
    try { kept = localStorage.getItem(THEME_KEY); } catch { /* storage may be off */ }
    return kept ? kept === "dark" : systemDark.matches;
  }
  function applyTheme() {
    document.body.classList.toggle("dark", wantsDark());
    document.documentElement.style.colorScheme = wantsDark() ? "dark" : "light";
  }
  function switchTheme() {
    try { localStorage.setItem(THEME_KEY, wantsDark() ? "light" : "dark"); } catch { /* this page only, then */ }
    applyTheme();
  }

  // --- copying ---
  function say(text) {
    let note = document.getElementById("copied-note");
    if (!note) {
      note = document.createElement("div");
      note.id = "copied-note";
      note.setAttribute("role", "status");
      document.body.append(note);
    }
    note.textContent = text;
    note.classList.add("shown");
    clearTimeout(say.timer);
    say.timer = setTimeout(() => note.classList.remove("shown"), 1800);
  }
  function copyByHand(text) {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
  async function copy(text, said) {
    if (!text) return;
    try {
      await navigator.clipboard.writeText(text);
      say(said);
    } catch { // plain HTTP on another host has no clipboard API
      say(copyByHand(text) ? said : "The browser did not allow copying");
    }
  }
  window.playground = { copy, afterSending, keepDraft, keptDraft };

  // --- the prompt that was sent and is kept: the field is cleared for the next one, and Arrow up brings it back ---
  let lastSent = "", writtenSince = false; // whoever writes on meanwhile, even the same again, keeps it
  const isPrompt = (element) => element?.matches?.("#prompt textarea") === true;
  function afterSending(sent, prompt) {
    try { [, lastSent] = JSON.parse(sent); } catch { return prompt; }
    return prompt === lastSent && !writtenSince ? "" : prompt;
  }
  const DRAFT_KEY = "playground-draft"; // for this tab of the browser
  function keepDraft(text) {
    try { sessionStorage.setItem(DRAFT_KEY, text ?? ""); } catch { /* storage may be off */ }
  }
  let draftBefore = ""; // read before the empty field of a new page is kept in its place
  try { draftBefore = sessionStorage.getItem(DRAFT_KEY) || ""; } catch { /* there is none, then */ }
  function keptDraft(text) {
    return text || draftBefore;
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#generate")) writtenSince = false;
  }, true);
  document.addEventListener("input", (event) => {
    if (isPrompt(event.target)) writtenSince = true;
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" || !lastSent || !isPrompt(event.target) || event.target.value) return;
    event.preventDefault();
    event.target.value = lastSent;
    event.target.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // --- the bar ---
  function openPicker(field) {
    document.body.classList.remove("panel-hidden");
    const input = first(`#${field} input`);
    if (!input) {
      first("#model-picker button.label-wrap")?.click();
      setTimeout(() => first(`#${field} input`)?.focus(), 150);
      return;
    }
    input.scrollIntoView({ block: "center", behavior: "smooth" });
    input.focus({ preventScroll: true });
  }
  function toggleShortcuts() {
    const dialog = document.getElementById("shortcuts");
    if (!dialog) return;
    if (dialog.open) dialog.close(); else dialog.showModal();
  }
  const toggleMemory = (open) => document.body.classList.toggle("memory-open", open);
  const ACTIONS = {
    theme: switchTheme,
    shortcuts: toggleShortcuts,
    memory: () => toggleMemory(),
    panel: () => document.body.classList.toggle("panel-hidden"),
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#memory, #memory-popover")) toggleMemory(false);
    const target = event.target.closest?.("[data-action], [data-open-picker], [data-copy]");
    if (!target) return;
    if (target.dataset.action) ACTIONS[target.dataset.action]?.();
    if (target.dataset.openPicker) openPicker(target.dataset.openPicker);
    if (target.dataset.copy) copy(target.dataset.copy, target.dataset.copied || "Copied");
  });

  // --- Escape stops also what was asked for so lately that its Stop button is still to come ---
  const STOP_TO_COME_MS = 1500;
  let asked = 0;
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#generate, #try-again, #inference-generate")) asked = Date.now();
  }, true);
  const phone = window.matchMedia("(max-width: 600px)");
  document.addEventListener("click", (event) => { // on a phone the answer would be written below the screen
    const card = event.target.closest?.("#generate, #try-again") && document.getElementById("answer-card");
    if (card && phone.matches) card.scrollIntoView({ block: "end", behavior: "smooth" });
  });
  function stop() {
    const mine = asked;
    const press = () => {
      const button = first("#stop, #inference-stop:enabled") || first(".stop-work");
      if (button) button.click();
      else if (mine === asked && Date.now() - mine < STOP_TO_COME_MS) setTimeout(press, 30);
    };
    press();
  }

  // --- naming a preset: Escape leaves it ---
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !event.target.closest?.("#preset-form")) return;
    event.stopImmediatePropagation();
    document.getElementById("preset-cancel")?.click();
  }, true);

  // --- times by the reader's clock, written as the list of conversations does ---
  const two = (number) => String(number).padStart(2, "0");
  function tell(time) {
    const at = new Date(time.dateTime), now = new Date();
    const year = at.getFullYear();
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
    const day = `${at.getDate()} ${at.toLocaleDateString("en-US", { month: "short" })}`;
    const full = `${day} ${year}, ${clock}`;
    const short = at.toDateString() === now.toDateString() ? clock : year === now.getFullYear() ? `${day}, ${clock}` : full;
    time.title = full;
    if (time.textContent !== short) time.textContent = short;
  }

  // --- keys ---
  const listOf = (event) => event.target.closest?.("input[aria-expanded]");
  document.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey;
    if (event.key === "Tab" && listOf(event)) {
      event.stopImmediatePropagation(); // Gradio's dropdown opens its list at any key, after Tab has left it for good
      return;
    }
    if (event.key === "Escape" && listOf(event)?.getAttribute("aria-expanded") === "true") return; // closes the list only
    if (command && event.key === "Enter") {
      const generate = first("#generate, #inference-generate");
      if (generate && !generate.disabled) { event.preventDefault(); generate.click(); }
    } else if (command && event.key === "/") {
      event.preventDefault();
      toggleShortcuts();
    } else if (event.key === "Escape" && document.body.classList.contains("memory-open")) {
      toggleMemory(false);
    } else if (event.key === "Escape" && !document.getElementById("shortcuts")?.open) {
      stop();
    }
  }, true);

  // --- a login that has ended: the server refuses all that the page asks then, and Gradio says nothing of it ---
  const LOGIN = "/login?next=" + encodeURIComponent(location.pathname + location.search);
  const ask = window.fetch;
  window.fetch = async (...request) => {
    const answer = await ask(...request);
    if (answer.url.startsWith(location.origin) && answer.url.includes("/gradio_api/")) {
      if (answer.status === 401) saySignedOut();
      else if (answer.ok) document.getElementById("signed-out")?.remove();
    }
    return answer;
  };
  function saySignedOut() {
    if (document.getElementById("signed-out")) return;
    const note = document.createElement("div");
    note.id = "signed-out";
    note.setAttribute("role", "alert");
    const words = document.createElement("p");
    words.textContent = "You are no longer signed in, so nothing was sent. Sign in again in another tab and come back: "
      + "what you have written here stays.";
    const link = document.createElement("a");
    link.href = LOGIN;
    link.target = "_blank";
    link.textContent = "Sign in";
    note.append(words, link);
    document.body.append(note);
  }
  document.addEventListener("click", (event) => { // Hugging Face shows its login in no frame, and Spaces are in one
    const link = event.target.closest?.("#person a");
    if (link && window.top !== window.self) link.target = "_blank";
  }, true);

  // --- the answer scrolls along only for those who are at its end ---
  function follow(scroller) {
    let atEnd = true;
    scroller.addEventListener("scroll", () => {
      atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 24;
    }, { passive: true });
    new MutationObserver(() => {
      if (atEnd && isStreaming()) scroller.scrollTop = scroller.scrollHeight;
    }).observe(scroller, { childList: true, subtree: true, characterData: true });
  }
  const isStreaming = () => document.querySelector('.answer-status[data-state="streaming"]') !== null;
  // What a button does, where its name alone does not say it: Gradio's own have no such help.
  const HELP = {
    "reset": "Clears the prompt and the answer that is shown. The conversation stays; Undo brings both back.",
    "try-again": "Answers the last message again, with the model, adapter and settings as they are now: another version",
  };
  function adopt() {
    for (const [id, words] of Object.entries(HELP)) document.getElementById(id)?.setAttribute("title", words);
    for (const time of document.querySelectorAll("time[datetime]:not([title])")) tell(time);
    for (const scroller of document.querySelectorAll(".answer-text:not([data-follows])")) {
      scroller.dataset.follows = "yes";
      follow(scroller);
    }
  }

  // --- a dropped folder: Gradio takes files only, so its files are handed over in its place ---
  const listed = (folder) => new Promise((done, failed) => folder.createReader().readEntries(done, failed));
  const fileOf = (entry) => new Promise((done, failed) => entry.file(done, failed));
  document.addEventListener("drop", async (event) => {
    const input = event.target.closest?.("#adapter-files")?.querySelector("input[type=file]");
    const entries = [...(event.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.());
    const folder = entries.find((entry) => entry?.isDirectory);
    if (!input || !folder) return;
    event.preventDefault();
    event.stopPropagation();
    const inside = (await listed(folder)).filter((entry) => entry.isFile);
    const transfer = new DataTransfer();
    for (const file of await Promise.all(inside.map(fileOf))) transfer.items.add(file);
    if (!transfer.files.length) { say("There are no files in that folder"); return; }
    nameIt(folder.name);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
  function nameIt(name) {
    const field = document.querySelector("#adapter-name :is(input, textarea)");
    if (!field || field.value) return;
    field.value = name;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function start() {
    applyTheme();
    systemDark.addEventListener("change", applyTheme);
    adopt();
    new MutationObserver(adopt).observe(document.body, { childList: true, subtree: true });
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
