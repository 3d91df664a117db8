/* Full Chat: Enter sends, the bubbles scroll along only for those at their end, folds stay as they were opened, arrow keys
   move between versions, and the whole of it covers the page as Full Chat View. */
(() => {
  "use strict";
  const END_PX = 32;
  const UPWARDS = new Set(["PageUp", "ArrowUp", "Home"]);
  const DOUBLE_CLICK_MS = 450;
  const STOP_TO_COME_MS = 2500;
  const byId = (id) => document.getElementById(id);
  const shown = (element) => element && element.getClientRects().length > 0;
  const draft = () => document.querySelector("#chat-draft textarea");
  const coarse = window.matchMedia("(hover: none)");

  // --- scrolling: at the end it stays there; whoever scrolled up is left alone, until they send something ---
  let atEnd = true;
  let lastTop = 0; // where it was when the page or a hand moved it last
  let keptBelow = 0; // how much stood below the top when the earlier messages were asked for
  let drawn = null; // the conversation that is shown
  let wasWriting = false;
  const scroller = () => byId("chat-scroll");
  const below = (box) => box.scrollHeight - box.scrollTop - box.clientHeight;
  const rewriting = () => document.querySelector("#bubbles .editor") !== null;
  function toEnd() {
    const box = scroller();
    if (!box) return;
    box.scrollTop = box.scrollHeight;
    lastTop = box.scrollTop;
  }
  function follow() {
    if (atEnd && !rewriting()) toEnd();
  }
  // The first step upwards, however small, is a wish to stay there; only a step down to the end takes it back. A box that
  // has become larger moves upwards as well, but never away from the end.
  function look() {
    const box = scroller();
    if (!shown(box)) return;
    const top = box.scrollTop;
    if (top < lastTop && below(box) > 1) atEnd = false;
    else if (below(box) < END_PX) atEnd = true;
    lastTop = top;
  }
  function leaveEnd(box) {
    if (box.scrollTop > 0) atEnd = false;
  }
  function watch(box) {
    box.dataset.watched = "yes";
    box.addEventListener("scroll", look, { passive: true });
    // Told before anything has moved: what is written in the same moment must not take the step back.
    box.addEventListener("wheel", (event) => { if (event.deltaY < 0) leaveEnd(box); }, { passive: true });
    box.addEventListener("keydown", (event) => {
      if (UPWARDS.has(event.key) && !event.target.closest("textarea, input")) leaveEnd(box);
    });
    new MutationObserver(changed).observe(box, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["data-conversation", "data-writing"] });
    new ResizeObserver(follow).observe(box);
    changed();
  }
  function changed() {
    const transcript = document.querySelector("#bubbles .transcript");
    const conversation = transcript?.dataset.conversation ?? null;
    const begun = drawn === "" && wasWriting; // a new one has its name when its first answer has ended
    if (conversation !== drawn && !begun) atEnd = true;
    drawn = conversation;
    wasWriting = transcript?.dataset.writing === "yes";
    refold();
    openEditor();
    if (keptBelow && !transcript?.querySelector(".earlier button")) stayBelow();
    else follow();
  }
  function stayBelow() {
    const box = scroller();
    box.scrollTop = lastTop = Math.max(0, box.scrollHeight - keptBelow);
    keptBelow = 0;
  }

  // --- folds: what is drawn anew stays as open as it was ---
  const unfolded = new Set();
  function refold() {
    for (const fold of document.querySelectorAll("#chat-scroll details[data-fold]")) {
      const open = unfolded.has(fold.dataset.fold);
      if (fold.open !== open) fold.open = open;
    }
  }
  document.addEventListener("click", (event) => {
    const fold = event.target.closest?.("#chat-scroll summary")?.parentElement;
    if (!fold?.dataset.fold) return;
    if (fold.open) unfolded.delete(fold.dataset.fold); else unfolded.add(fold.dataset.fold);
    if (!wasWriting) setTimeout(() => { atEnd = below(scroller()) < END_PX; }); // to be read from its beginning
  }, true);

  // --- an editor takes the focus once, when it opens ---
  let editing = "";
  function openEditor() {
    const field = document.querySelector("#bubbles textarea[data-editor]");
    if (field && field.dataset.editor !== editing) {
      field.focus({ preventScroll: true });
      field.setSelectionRange(field.value.length, field.value.length);
      field.closest(".bubble")?.scrollIntoView({ block: "nearest" });
    } else if (!field && editing && document.activeElement === document.body) {
      document.querySelector(`#bubbles .bubble[data-turn="${CSS.escape(editing)}"]`)?.focus({ preventScroll: true });
    }
    editing = field?.dataset.editor ?? "";
  }

  // --- sending: Enter, once; a double click never presses the Stop that comes in Send's place ---
  let sentAt = 0;
  let stopSeen = 0; // whether what was sent then has had its Stop
  const stopToCome = () => stopSeen !== sentAt && Date.now() - sentAt < STOP_TO_COME_MS;
  function send() {
    const button = byId("chat-send");
    if (!shown(button) || Date.now() - sentAt < DOUBLE_CLICK_MS) return;
    button.click();
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('[data-act="earlier"]')) keptBelow = scroller().scrollHeight - scroller().scrollTop;
    const asks = event.target.closest?.('#chat-send, [data-act="regenerate"], [data-act="continue"], [data-act="save-send"]');
    if (asks) {
      sentAt = Date.now();
      atEnd = true;
      if (asks.id === "chat-send" && !coarse.matches) draft()?.focus({ preventScroll: true });
    } else if (event.isTrusted && event.target.closest?.("#chat-stop") && Date.now() - sentAt < DOUBLE_CLICK_MS) {
      event.stopImmediatePropagation();
      event.preventDefault();
    }
  }, true);
  window.addEventListener("keydown", (event) => { // before the Playground's own keys, which lie under the view
    const field = event.target.closest?.("#chat-draft textarea, #bubbles textarea[data-editor]");
    if (!field || event.key !== "Enter" || event.isComposing || event.shiftKey) return;
    if (field.dataset.editor) {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      field.closest(".editor").querySelector(".primary")?.click();
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation(); // Ctrl + Enter here is not the Playground's Generate
    if (!event.repeat) send();
  }, true);

  // --- Escape: stop what is being written, else leave what is being rewritten, else leave the view ---
  function escape(event) {
    if (byId("shortcuts")?.open || document.body.classList.contains("memory-open") || event.target.closest?.('input[aria-expanded="true"]')) return;
    if (!shown(byId("chat"))) return;
    const stopping = byId("chat-stop");
    const cancel = document.querySelector('#bubbles [data-act="cancel"]');
    if (shown(stopping)) stopping.click();
    else if (stopToCome()) stopSoon(sentAt);
    else if (cancel) cancel.click();
    else if (document.body.classList.contains("chat-view")) closeView();
    else return;
    event.stopImmediatePropagation();
    event.preventDefault();
  }

  function stopSoon(mine) { // what was sent just now has its Stop still to come
    const stopping = byId("chat-stop");
    if (shown(stopping)) stopping.click();
    else if (mine === sentAt && stopToCome()) setTimeout(() => stopSoon(mine), 30);
  }

  // --- Full Chat View ---
  let cameFrom = null;
  // Gradio makes what is in a tab when that is first shown, so a tab that never was is shown for a moment.
  const VISIT_MS = 5000;
  function visitChat(then) {
    const tabs = [...document.querySelectorAll('#tabs [role="tab"]')];
    const before = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
    const until = Date.now() + VISIT_MS;
    const back = () => {
      if (!byId("chat") && Date.now() < until) { setTimeout(back, 20); return; }
      before?.click();
      if (byId("chat")) setTimeout(then, 0);
    };
    tabs.find((tab) => tab.textContent.trim() === "Full Chat")?.click();
    back();
  }
  function openView(opener) {
    if (!byId("chat")) { visitChat(() => openView(opener)); return; }
    cameFrom = opener ?? document.activeElement;
    document.body.classList.add("chat-view");
    byId("chat")?.setAttribute("role", "dialog");
    byId("chat")?.setAttribute("aria-modal", "true");
    byId("chat")?.setAttribute("aria-labelledby", "chat-view-title");
    follow();
    draft()?.focus({ preventScroll: true });
  }
  function closeView() {
    document.body.classList.remove("chat-view");
    for (const name of ["role", "aria-modal", "aria-labelledby"]) byId("chat")?.removeAttribute(name);
    if (shown(cameFrom)) cameFrom.focus({ preventScroll: true });
    cameFrom = null;
  }
  const reachable = () => [...byId("chat").querySelectorAll("button, textarea, input, a[href], summary, [tabindex]")]
    .filter((one) => shown(one) && !one.disabled && one.tabIndex >= 0);
  function keepInside(event) {
    const all = reachable();
    const inside = byId("chat").contains(document.activeElement);
    const edge = event.shiftKey ? all[0] : all.at(-1);
    if (inside && document.activeElement !== edge) return;
    event.preventDefault();
    (event.shiftKey ? all.at(-1) : all[0])?.focus();
  }

  // --- arrows on a bubble: its versions ---
  function toVersion(event) {
    const bubble = event.target.classList?.contains("bubble") ? event.target : null;
    const way = { ArrowLeft: "older", ArrowRight: "newer" }[event.key];
    const arrow = way && bubble?.querySelector(`[data-way="${way}"]:not(:disabled)`);
    if (!arrow || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    arrow.click();
  }
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape") escape(event);
    else if (event.key === "Tab" && document.body.classList.contains("chat-view")) keepInside(event);
    else toVersion(event);
  }, true);

  // --- buttons ---
  function togglePrefill(button) {
    const open = byId("composer").classList.toggle("with-prefill");
    button.setAttribute("aria-expanded", String(open));
    if (open) document.querySelector("#chat-prefill :is(textarea, input)")?.focus();
  }
  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("[data-chat-view], [data-chat-prefill], [data-copy-code]");
    if (!target) return;
    if (target.dataset.chatView === "open") openView(target);
    else if (target.dataset.chatView === "close") closeView();
    else if ("chatPrefill" in target.dataset) togglePrefill(target);
    else window.playground.copy(target.closest(".code_wrap").querySelector("pre").textContent, "Copied the code");
  });

  function adopt() {
    const box = scroller();
    if (box && !box.dataset.watched) watch(box);
    if (shown(byId("chat-stop"))) stopSeen = sentAt;
  }
  function start() {
    adopt();
    new MutationObserver(adopt).observe(document.body, { childList: true, subtree: true });
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
