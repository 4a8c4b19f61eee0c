// Sorting: up, down, and back to the order of the table. Entries without a number stay last.
"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell && cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : NaN;
  };
  const sortBy = (table, rows, heading, column) => {
    const before = heading.getAttribute("aria-sort");
    const order = { ascending: "descending", descending: null }[before];
    const now = order === undefined ? "ascending" : order;
    for (const th of table.querySelectorAll("thead th")) th.removeAttribute("aria-sort");
    if (now) heading.setAttribute("aria-sort", now);
    const sign = now === "descending" ? -1 : 1;
    // Rows of one value stay as they were written.
    const sorted = [...rows];
    if (now) {
      sorted.sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
      });
    }
    table.tBodies[0].append(...sorted);
    table.classList.toggle("sorted", Boolean(now));
  };
  for (const table of document.querySelectorAll("table")) {
    const rows = [...table.tBodies[0].rows];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button.sort").addEventListener("click", () => {
        sortBy(table, rows, heading, column);
      });
    });
  }
})();
