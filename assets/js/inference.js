/* Inference: a locked step is out of the keyboard's reach; the formats of an export open under their button, and Escape or a
   click elsewhere closes them. */
(() => {
  "use strict";
  const page = (window.playground ??= {});
  const open = () => document.querySelector(".export-formats:not([hidden])");
  function close(focus = false) {
    const formats = open();
    if (!formats) return false;
    formats.hidden = true;
    const button = formats.parentElement.querySelector("[data-export-menu]");
    button.setAttribute("aria-expanded", "false");
    if (focus) button.focus({ preventScroll: true });
    return true;
  }
  page.exportMenu = (element, trigger) => {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-export-menu]");
      const choice = event.target.closest("[data-export]");
      if (choice) {
        close(true);
        trigger("click", { value: choice.dataset.export });
      } else if (button && !close()) {
        const formats = button.parentElement.querySelector(".export-formats");
        formats.hidden = false;
        button.setAttribute("aria-expanded", "true");
        formats.querySelector("button").focus({ preventScroll: true });
      }
    });
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".export-chats")) close();
  });
  const STEPS = { ArrowDown: 1, ArrowUp: -1 };
  window.addEventListener("keydown", (event) => { // before the page's own Escape, which stops answers
    const formats = open();
    if (!formats) return;
    if (event.key === "Escape") close(true);
    else if (event.key in STEPS && formats.contains(document.activeElement)) {
      const all = [...formats.querySelectorAll("button")];
      all[(all.indexOf(document.activeElement) + STEPS[event.key] + all.length) % all.length].focus();
    } else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);

  // --- the locked step: its fields are disabled each for itself, its folds and links are not ---
  function lock() {
    const locked = document.querySelector('#prompt-step .prompt-head[data-state="locked"]') !== null;
    const asking = document.getElementById("asking");
    if (asking && asking.inert !== locked) asking.inert = locked;
  }
  function start() {
    lock();
    new MutationObserver(lock).observe(document.body, { childList: true, subtree: true });
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
