/* The batch test: its table is filled cell by cell, so that what somebody has unfolded or scrolled to stays; a file with
   prompts is read by the browser; Ctrl+Enter in its prompts runs it. */
(() => {
  "use strict";
  const page = (window.playground ??= {});
  const parsed = (html) => {
    const parts = document.createElement("template");
    parts.innerHTML = html;
    return parts.content;
  };

  // --- the table: lines of JSON, of which there are more with every update ---
  page.batchTable = (element, props, watch) => {
    let test = "", read = 0, cells = new Map();
    const begin = (line) => {
      const scroll = document.createElement("div");
      scroll.className = "batch-scroll trials";
      scroll.tabIndex = 0;
      scroll.dataset.state = "running";
      scroll.append(parsed(line.html));
      cells = new Map([...scroll.querySelectorAll("[data-cell]")].map((cell) => [cell.dataset.cell, cell]));
      element.replaceChildren(scroll);
    };
    const put = (line) => {
      if (line.ended) element.firstElementChild.dataset.state = line.ended;
      const cell = line.cell && cells.get(line.cell);
      if (!cell) return;
      cell.dataset.state = line.state;
      cell.replaceChildren(parsed(line.html));
    };
    const draw = () => {
      const value = props.value ?? "";
      const head = value.slice(0, value.indexOf("\n") + 1);
      if (!head) { element.replaceChildren(); test = ""; return; }
      const first = JSON.parse(head);
      if (first.test !== test) {
        test = first.test;
        begin(first);
        read = head.length;
      }
      const end = value.lastIndexOf("\n") + 1; // a late update may hold less than what is drawn
      if (end <= read) return;
      for (const line of value.slice(read, end - 1).split("\n")) put(JSON.parse(line));
      read = end;
    };
    watch("value", draw);
    draw();
  };

  // --- a file with prompts: it lies on nobody's disk but its owner's ---
  const asText = (bytes) => {
    let binary = "";
    for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    return btoa(binary);
  };
  page.batchFile = (element, trigger) => {
    const field = element.querySelector(".batch-drop");
    if (!field) return;
    const take = async (file) => {
      if (!file) return;
      const said = { name: file.name, bytes: file.size };
      if (file.size <= Number(field.dataset.limit)) said.base64 = asText(new Uint8Array(await file.arrayBuffer()));
      trigger("click", { value: said });
    };
    const input = field.querySelector("input");
    input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
    input.addEventListener("click", (event) => event.stopPropagation());
    field.addEventListener("dragover", (event) => { event.preventDefault(); field.classList.add("dropping"); });
    field.addEventListener("dragleave", () => field.classList.remove("dropping"));
    field.addEventListener("drop", (event) => {
      event.preventDefault();
      field.classList.remove("dropping");
      take(event.dataTransfer.files[0]);
    });
  };

  window.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest?.("#batch-test")) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // elsewhere on the page it is Generate's
    const run = document.querySelector("#batch-run");
    if (run?.offsetParent) run.click();
  }, true);
})();
