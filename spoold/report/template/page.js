"use strict";
(function () {
  const up = document.getElementById("up");
  if (up && /\/(active|deferred|done)\/[^/]+\/report\/(index\.html)?$/.test(location.pathname)) up.hidden = false;

  const table = document.getElementById("rows");
  if (!table) return;
  const STEP = 100;
  const body = table.tBodies[0];
  const tools = document.getElementById("tools");
  const search = document.getElementById("search");
  const filter = document.getElementById("filter");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const collator = new Intl.Collator("en", { numeric: true });
  const rows = Array.from(body.rows, (row) => ({
    row,
    cells: Array.from(row.cells, (cell) => cell.textContent),
    text: row.textContent.toLowerCase(),
  }));
  let matching = rows;
  let limit = STEP;

  function show() {
    const shown = matching.slice(0, limit);
    body.replaceChildren(...shown.map((entry) => entry.row));
    more.hidden = matching.length <= limit;
    found.textContent =
      matching.length === 0
        ? "None match"
        : (shown.length < matching.length ? "Showing " + shown.length.toLocaleString("en") + " of " : "Showing all ") +
          matching.length.toLocaleString("en");
  }

  function select() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = filter.value;
    matching = rows.filter(
      (entry) => (!state || entry.cells[2] === state) && words.every((word) => entry.text.includes(word)),
    );
    limit = STEP;
    show();
  }

  function sort(column, head) {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => {
      const left = a.cells[column];
      const right = b.cells[column];
      if (left === "" || right === "") return (left === "") - (right === "");
      return sign * collator.compare(left, right);
    });
    select();
  }

  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column, head));
    head.replaceChildren(button);
  });
  search.addEventListener("input", select);
  filter.addEventListener("change", select);
  tools.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    limit += 5 * STEP;
    show();
  });
  tools.hidden = false;
  filter.value = "";
  search.value = "";
  show();
})();
