/* What the Inference tab's run picker does on the page: the way to the adapter's report in the panel beside. */
(() => {
  "use strict";
  const PATIENCE_MS = 6000; // the adapter's files may be large
  const visible = (element) => element && element.offsetParent !== null;

  // Unfold the report, have the layers measured, and go there; it may still be reading the files.
  function openReport() {
    document.body.classList.remove("panel-hidden");
    const report = document.getElementById("adapter-report");
    if (!report) return;
    const heading = report.querySelector("button.label-wrap");
    if (heading && !heading.classList.contains("open")) heading.click();
    setTimeout(() => report.scrollIntoView({ block: "start", behavior: "smooth" }), 60);
    heading?.focus({ preventScroll: true });
    const until = Date.now() + PATIENCE_MS;
    const examine = () => {
      const button = document.getElementById("examine");
      if (report.querySelector(".doctor")) return; // measured already
      if (visible(button)) button.click();
      else if (Date.now() < until) setTimeout(examine, 100);
    };
    setTimeout(examine, 60);
  }
  window.runs = { openReport };
})();
