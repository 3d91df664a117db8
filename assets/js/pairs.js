/* Prompt and response pairs: the list scrolls along only for those at its end, and folds stay as they were opened. */
(() => {
  "use strict";
  const END_PX = 32;
  const UPWARDS = new Set(["PageUp", "ArrowUp", "Home"]);
  const scroller = () => document.getElementById("pairs-scroll");
  const list = () => document.querySelector("#pairs .pairs");
  const below = (box) => box.scrollHeight - box.scrollTop - box.clientHeight;

  // --- scrolling: whoever scrolled up is left alone, until another response begins ---
  let atEnd = true;
  let lastTop = 0;
  let drawn = null; // the conversation that is shown
  let wasWriting = false;
  let keptBelow = 0; // how much stood below the top when the earlier pairs were asked for
  function follow() {
    const box = scroller();
    if (!box || !atEnd) return;
    box.scrollTop = box.scrollHeight;
    lastTop = box.scrollTop;
  }
  function look() {
    const box = scroller();
    if (!box.clientHeight) return; // hidden, so nobody scrolled
    if (box.scrollTop < lastTop && below(box) > 1) atEnd = false;
    else if (below(box) < END_PX) atEnd = true;
    lastTop = box.scrollTop;
  }
  function leaveEnd(box) {
    if (box.scrollTop > 0) atEnd = false;
  }
  // A response that has ended stays where it was read: what is said of it comes below, and moves nothing.
  const SETTLE_MS = 400;
  let endedAt = -SETTLE_MS;
  let keptTop = 0;
  function stay(box) {
    box.scrollTop = lastTop = keptTop;
    atEnd = below(box) < END_PX;
  }
  function changed() {
    const shown = list();
    const conversation = shown?.dataset.conversation ?? null;
    const writing = shown?.dataset.writing === "yes";
    const begun = drawn === "" && wasWriting; // a new one has its name when its first response has ended
    if ((conversation !== drawn && !begun) || (writing && !wasWriting)) atEnd = true;
    else if (wasWriting && !writing && !atEnd) endedAt = -SETTLE_MS;
    else if (wasWriting && !writing) [endedAt, keptTop] = [performance.now(), lastTop];
    drawn = conversation;
    wasWriting = writing;
    refold();
    if (keptBelow && !shown?.querySelector(".earlier")) {
      const box = scroller();
      box.scrollTop = lastTop = Math.max(0, box.scrollHeight - keptBelow);
      keptBelow = 0;
    } else if (performance.now() - endedAt < SETTLE_MS) stay(scroller());
    else follow();
  }
  function watch(box) {
    box.dataset.watched = "yes";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Prompts and responses");
    box.addEventListener("scroll", look, { passive: true });
    box.addEventListener("wheel", (event) => { if (event.deltaY < 0) leaveEnd(box); }, { passive: true });
    box.addEventListener("keydown", (event) => { if (UPWARDS.has(event.key)) leaveEnd(box); });
    new MutationObserver(changed).observe(box, {
      childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["data-conversation", "data-writing"],
    });
    new ResizeObserver(follow).observe(box);
    changed();
  }

  // --- folds: what is drawn anew stays as it was opened or closed; others stand as they were drawn ---
  const folds = new Map();
  function refold() {
    for (const fold of document.querySelectorAll("#pairs-scroll details[data-fold]")) {
      const open = folds.get(fold.dataset.fold);
      if (open !== undefined && fold.open !== open) fold.open = open;
    }
  }
  document.addEventListener("click", (event) => {
    const target = event.target;
    if (target.closest?.('[data-pairs="earlier"]')) keptBelow = below(scroller()) + scroller().clientHeight;
    const fold = target.closest?.("#pairs-scroll summary")?.parentElement;
    if (!fold?.dataset.fold) return;
    folds.set(fold.dataset.fold, !fold.open);
    if (!wasWriting) setTimeout(() => { atEnd = below(scroller()) < END_PX; });
  }, true);

  // --- a prompt that goes back into its field: there it is read, and changed ---
  function toPrompt() {
    const field = document.querySelector("#inference-prompt textarea");
    if (!field || field.disabled) return;
    field.scrollIntoView({ block: "center", behavior: "smooth" });
    field.focus({ preventScroll: true });
  }
  (window.playground ??= {}).toPrompt = toPrompt;

  function adopt() {
    const box = scroller();
    if (box && !box.dataset.watched) watch(box);
  }
  function start() {
    adopt();
    new MutationObserver(adopt).observe(document.body, { childList: true, subtree: true });
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
