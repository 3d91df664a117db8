/* The list of conversations: what is asked of the server and what comes back is drawn row by row, so that a row keeps the
   focus and what is typed in it; the keys in the list; files in and out; and the column that hides, or slides over a phone. */
(() => {
  "use strict";
  const OPEN_KEY = "playground-open";
  const AWAITED_KEY = "playground-awaited";
  const HIDDEN_KEY = "playground-chats-hidden";
  const UNDERSTOOD_KEY = "playground-understood";
  const ROWS = 200;
  const LARGEST_FILE = 30_000_000;
  const SEARCH_MS = 200;
  const OPENING_MS = 1500;
  const AWAITED_MS = 60_000;
  const page = (window.playground ??= {});
  const kept = (store, key) => { try { return store().getItem(key); } catch { return null; } };
  const keep = (store, key, value) => {
    try { if (value) store().setItem(key, value); else store().removeItem(key); } catch { /* storage may be off */ }
  };
  const session = () => sessionStorage;
  const local = () => localStorage;

  // --- what is open: kept in this tab of the browser, so that a reload brings it back ---
  let openKey = "";
  let awaited = ""; // what the page before the reload was waiting for, and until when this one does
  let awaitedUntil = 0;
  page.keptOpen = () => {
    const key = kept(session, OPEN_KEY) || "";
    awaited = key ? "" : kept(session, AWAITED_KEY) || "";
    awaitedUntil = Date.now() + AWAITED_MS;
    return [key, awaited];
  };
  page.keepOpen = (key) => {
    openKey = key || "";
    awaited = "";
    keep(session, OPEN_KEY, openKey);
    keep(session, AWAITED_KEY, "");
    markOpen();
    openWanted();
    return key;
  };
  page.keepAwaited = (id) => {
    if (!openKey) keep(session, AWAITED_KEY, id);
    return id;
  };
  const openId = () => { try { return JSON.parse(openKey)[0]; } catch { return ""; } };
  const isAnswering = () => document.querySelector('.answer-status[data-state="streaming"], #live-head [data-state], #inference-generate.running') !== null;
  // news: [the key that it is about, the key to have now, a line about it]
  page.followed = (news, key, said) => {
    let told = null;
    try { told = JSON.parse(news); } catch { return [key, said]; }
    if ((key || "") !== told[0] || isAnswering()) return [key, said];
    return [told[1], told[2] || said];
  };

  // --- what is asked ---
  const query = { text: "", model: "", adapter: "", use_case: "", limit: ROWS };
  const listed = () => document.querySelector("#sidebar-list [data-mark]");
  page.asked = () => {
    tellButton();
    watchBar();
    return JSON.stringify({ ...query, ...shown() });
  };
  const shown = () => ({
    minutes: -new Date().getTimezoneOffset(),
    mark: listed()?.dataset.mark ?? "",
    filters_mark: document.querySelector("#sidebar-filters [data-mark]")?.dataset.mark ?? "",
    awaited: !openKey && Date.now() < awaitedUntil ? awaited : "",
  });
  let trigger = () => {};
  const canUndo = () => document.querySelector("#sidebar-said .undo") !== null;
  const look = () => trigger("submit");
  const act = (action, more = {}) => trigger("click", { value: { do: action, asked: page.asked(), undo: canUndo(), ...more } });
  const clicked = (button) => CLICKS[button.dataset.sidebar]?.(button);
  const column = () => document.getElementById("conversations");

  page.sidebar = (element, send) => {
    trigger = send;
    const search = element.querySelector(".search");
    let later = 0;
    search.addEventListener("input", () => {
      query.text = search.value.trim();
      query.limit = ROWS;
      clearTimeout(later);
      later = setTimeout(look, SEARCH_MS);
    });
  };

  // --- drawing ---
  const drawings = { "sidebar-filters": drawFilters, "sidebar-list": drawList, "sidebar-foot": drawFoot };
  page.drawn = (element, props, watch) => {
    const draw = drawings[element.closest("[id^=sidebar-]").id];
    const now = () => draw(element, props.value ?? "");
    watch("value", now);
    now();
  };
  const parsed = (html) => {
    const parts = document.createElement("template");
    parts.innerHTML = html;
    return parts.content;
  };
  function drawFilters(element, html) {
    const open = element.querySelector("details")?.open ?? false;
    element.replaceChildren(parsed(html));
    const details = element.querySelector("details");
    if (details) details.open = open;
    for (const select of element.querySelectorAll("[data-filter]")) select.value = query[select.dataset.filter];
  }
  let drawing = false;
  function drawList(element, html) {
    const focused = element.contains(document.activeElement) ? document.activeElement : null;
    const typed = focused?.matches(".rename") ? [focused.selectionStart, focused.selectionEnd] : null;
    const at = focused ? rows().indexOf(focused.closest(".conversation")) : -1;
    const before = new Map(rows().map((row) => [row.dataset.id, row]));
    const fresh = parsed(html);
    const actions = document.querySelector("#sidebar-frame template.row-actions")?.content.firstElementChild;
    drawing = true;
    for (const row of fresh.querySelectorAll(".conversation")) {
      const drawn = row.outerHTML;
      const old = before.get(row.dataset.id);
      if (old && (old.drawn === drawn || old.querySelector(".rename"))) row.replaceWith(old);
      else {
        row.drawn = drawn;
        if (actions) row.append(actions.cloneNode(true));
      }
    }
    element.replaceChildren(fresh);
    drawing = false;
    markOpen();
    if (!focused) return;
    if (focused.isConnected) {
      focused.focus({ preventScroll: true });
      if (typed) focused.setSelectionRange(...typed);
    } else if (at >= 0) {
      const id = focused.closest(".conversation")?.dataset.id;
      const row = rows().find((each) => each.dataset.id === id) ?? rows()[Math.min(at, rows().length - 1)];
      openButton(row)?.focus({ preventScroll: true });
    }
  }
  function drawFoot(element, html) {
    element.replaceChildren(parsed(html));
    for (const notice of element.querySelectorAll("[data-notice]")) {
      notice.hidden = kept(local, UNDERSTOOD_KEY) === notice.dataset.notice;
    }
  }

  // --- the rows ---
  const rows = () => [...document.querySelectorAll("#sidebar-list .conversation")];
  const openButton = (row) => row?.querySelector(".open");
  function markOpen() {
    const id = openId();
    const all = rows();
    const current = all.find((row) => row.dataset.id === id);
    for (const row of all) {
      if (row === current) openButton(row).setAttribute("aria-current", "true");
      else openButton(row).removeAttribute("aria-current");
    }
    reachable(all.find((row) => row.contains(document.activeElement)) ?? current ?? all[0]);
  }
  // Tab comes to one row and its actions; the arrows go to the others.
  function reachable(chosen) {
    for (const row of rows()) {
      for (const button of row.querySelectorAll("button")) button.tabIndex = row === chosen ? 0 : -1;
    }
  }
  const within = (row) => row.dataset.id;
  // One is opened at a time: of several clicks the last one counts, in whatever order the server answers.
  let opening = 0, wanted = "";
  function openRow(id) {
    if (Date.now() - opening < OPENING_MS) { wanted = id; return; }
    if (id !== openId()) {
      opening = Date.now();
      setTimeout(openWanted, OPENING_MS);
    }
    act("open", { id });
  }
  function openWanted() {
    const id = wanted;
    opening = 0;
    wanted = "";
    if (id && id !== openId()) openRow(id);
  }
  function rename(row) {
    closeFormats();
    if (row.querySelector(".rename")) return;
    const title = row.querySelector(".title");
    const input = document.createElement("input");
    input.className = "rename";
    input.maxLength = 200;
    input.dir = "auto";
    input.setAttribute("aria-label", "Title");
    input.value = title.textContent;
    const leave = (saves) => {
      if (drawing || !input.isConnected) return;
      const had = document.activeElement === input;
      drawing = true;
      input.remove();
      drawing = false;
      row.classList.remove("renaming");
      if (had) openButton(row).focus();
      if (!saves || input.value.trim() === title.textContent) { look(); return; }
      if (input.value.trim()) title.textContent = input.value.trim();
      row.drawn = "";
      act("rename", { id: within(row), title: input.value });
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); leave(true); }
    });
    input.addEventListener("leave", () => leave(false));
    input.addEventListener("blur", () => leave(true));
    row.classList.add("renaming");
    row.prepend(input);
    input.focus();
    input.select();
  }
  function remove(row) {
    closeFormats();
    row.classList.add("going");
    act("delete", { id: within(row) });
  }
  const closeFormats = () => column()?.querySelectorAll("span.formats").forEach((formats) => formats.remove());
  function formatsUnder(place, id) {
    const was = place.querySelector("span.formats");
    closeFormats();
    if (was) return;
    const formats = document.querySelector("#sidebar-frame template.formats").content.firstElementChild.cloneNode(true);
    formats.dataset.of = id;
    place.append(formats);
    formats.querySelector("button").focus();
  }
  const rowOf = (target) => target.closest(".conversation");
  const CLICKS = {
    new: () => { wanted = ""; act("new"); closeDrawer(); },
    clear: () => {
      Object.assign(query, { text: "", model: "", adapter: "", use_case: "", limit: ROWS });
      document.querySelector("#sidebar-frame .search").value = "";
      for (const select of document.querySelectorAll("#sidebar-filters [data-filter]")) select.value = "";
      look();
    },
    more: () => { query.limit += ROWS; look(); },
    rename: (button) => rename(rowOf(button)),
    export: (button) => formatsUnder(rowOf(button), within(rowOf(button))),
    delete: (button) => remove(rowOf(button)),
    undo: () => act("undo"),
    import: () => column().querySelector("input[type=file]").click(),
    "export-all": (button) => formatsUnder(button.parentElement, ""),
    "ask-delete-all": () => act("ask-delete-all"),
    "delete-all": () => act("delete-all"),
    keep: () => act("keep"),
    dismiss: (button) => {
      const notice = button.closest("[data-notice]");
      keep(local, UNDERSTOOD_KEY, notice.dataset.notice);
      notice.hidden = true;
    },
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest) return;
    if (event.target.closest('[data-action="chats"]')) { toggleColumn(); return; }
    if (!event.target.closest("#conversations")) return;
    const button = event.target.closest("[data-sidebar]");
    const format = event.target.closest("[data-format]");
    if (button) clicked(button);
    else if (format) {
      act("export", { id: format.parentElement.dataset.of, format: format.dataset.format });
      closeFormats();
    } else if (event.target.closest(".open")) {
      openRow(within(rowOf(event.target)));
      closeDrawer();
    }
  });
  document.addEventListener("change", (event) => {
    const target = event.target;
    if (!target.closest?.("#conversations")) return;
    if (target.matches("[data-filter]")) {
      query[target.dataset.filter] = target.value;
      query.limit = ROWS;
      look();
    } else if (target.matches("input[type=file]")) {
      takeIn([...target.files]);
      target.value = "";
    }
  });
  document.addEventListener("focusin", (event) => {
    const row = event.target.closest?.("#sidebar-list .conversation");
    if (row) reachable(row);
  });

  // --- keys: on the window, so that they are heard before those of the page, where Escape stops an answer ---
  const STEPS = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  window.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.key === "Escape" && escaped(target)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    if (!target.closest?.("#conversations") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches(".search") && event.key === "ArrowDown") {
      event.preventDefault();
      openButton(rows()[0])?.focus();
      return;
    }
    const row = target.matches("button") && rowOf(target);
    if (!row) return;
    if (event.key in STEPS) {
      event.preventDefault();
      const all = rows();
      const to = all.indexOf(row) + STEPS[event.key];
      if (to < 0 && event.key === "ArrowUp") document.querySelector("#sidebar-frame .search").focus();
      else openButton(all[Math.max(0, Math.min(all.length - 1, to))]).focus();
    } else if (event.key === "F2") {
      event.preventDefault();
      rename(row);
    } else if (event.key === "Delete") {
      event.preventDefault();
      openButton(row).focus();
      remove(row);
    }
  }, true);
  function escaped(target) {
    if (target.matches?.("#conversations .rename")) {
      target.dispatchEvent(new CustomEvent("leave"));
      return true;
    }
    const formats = column()?.querySelector("span.formats");
    if (formats) {
      const row = rowOf(formats);
      closeFormats();
      (openButton(row) ?? column().querySelector('[data-sidebar="export-all"]')).focus();
      return true;
    }
    if (target.matches?.("#conversations .search") && target.value) {
      target.value = "";
      target.dispatchEvent(new Event("input"));
      return true;
    }
    return closeDrawer();
  }

  // --- files: read and written by the browser, so nothing lies on the server's disk ---
  page.save = (file) => {
    if (!file) return "";
    const [name, text] = JSON.parse(file);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    return "";
  };
  async function takeIn(files) {
    for (const file of files) {
      if (file.size > LARGEST_FILE) act("import", { name: file.name, bytes: file.size });
      else act("import", { name: file.name, text: await file.text() });
    }
  }
  const carriesFiles = (event) => event.target.closest?.("#conversations") && [...(event.dataTransfer?.types ?? [])].includes("Files");
  const dropping = (on) => column()?.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    const here = carriesFiles(event);
    if (here) event.preventDefault();
    dropping(Boolean(here));
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) dropping(false); });
  document.addEventListener("drop", (event) => {
    dropping(false);
    if (!carriesFiles(event)) return;
    event.preventDefault();
    takeIn([...event.dataTransfer.files]);
  });

  // --- the column: hidden for the session, or a drawer where there is no room beside the page ---
  const narrow = window.matchMedia("(max-width: 1279px)");
  const isShown = () => (narrow.matches ? document.body.classList.contains("list-open") : !document.body.classList.contains("list-hidden"));
  function tellButton() {
    document.querySelector('#bar-buttons [data-action="chats"]')?.setAttribute("aria-expanded", String(isShown()));
  }
  function toggleColumn() {
    if (narrow.matches) {
      if (closeDrawer()) return;
      document.body.classList.add("list-open");
      column().querySelector(".new").focus({ preventScroll: true });
    } else {
      keep(session, HIDDEN_KEY, document.body.classList.toggle("list-hidden") ? "yes" : "");
    }
    tellButton();
  }
  function closeDrawer() {
    if (!document.body.classList.contains("list-open")) return false;
    document.body.classList.remove("list-open");
    if (column().contains(document.activeElement)) document.querySelector('#bar-buttons [data-action="chats"]')?.focus();
    tellButton();
    return true;
  }
  document.addEventListener("click", (event) => { // a tap outside closes the drawer, and does nothing else
    if (!document.body.classList.contains("list-open") || !event.isTrusted) return;
    if (event.target.closest?.('#conversations, [data-action="chats"]')) return;
    closeDrawer();
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
  // the bar may take two lines: what sticks below it must know where that is
  const height = new ResizeObserver(([bar]) => {
    document.body.style.setProperty("--below-bar", `${Math.ceil(bar.target.offsetHeight) + 9}px`);
  });
  let watched = null;
  function watchBar() {
    const bar = document.getElementById("topbar");
    if (!bar || bar === watched) return;
    watched = bar;
    height.observe(bar);
  }
  function start() {
    document.body.classList.toggle("list-hidden", kept(session, HIDDEN_KEY) === "yes");
    narrow.addEventListener("change", () => { document.body.classList.remove("list-open"); tellButton(); });
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
