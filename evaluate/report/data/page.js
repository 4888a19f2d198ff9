"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const words = new Intl.Collator("en", { numeric: true });

  // Cells without a number stand last, whichever way is up.
  const compare = (column, up) => (a, b) => {
    if (column === 0) {
      return (up ? 1 : -1) * words.compare(a.cells[0].textContent, b.cells[0].textContent);
    }
    const x = value(a, column), y = value(b, column);
    if (x === null || y === null) return (x === null) - (y === null);
    return up ? x - y : y - x;
  };

  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare(column, up)));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const label = head.querySelector("span");
      if (!label) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(label.textContent);
      button.addEventListener("click", () => sort(table, column));
      label.replaceWith(button);
    });
  }

  for (const table of document.querySelectorAll("table.filtered")) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    label.className = "filter";
    input.type = "search";
    input.placeholder = "filter sequences";
    input.setAttribute("aria-label", `filter sequences of ${table.dataset.name}`);
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
        shown += !row.hidden;
      }
      count.value = wanted ? `${shown} of ${table.tBodies[0].rows.length}` : "";
    });
    label.append(input, count);
    table.parentElement.before(label);
  }
})();
