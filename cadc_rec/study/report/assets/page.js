"use strict";
(() => {
  // Theme: what the reader chose, else what the system prefers.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // Sorting: up, down, and back to the order of the table. Entries without a number stay last.
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell && cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : NaN;
  };
  const sortBy = (table, heading, column) => {
    const before = heading.getAttribute("aria-sort");
    const now = { ascending: "descending", descending: null }[before];
    const order = now === undefined ? "ascending" : now;
    for (const th of table.querySelectorAll("thead th")) th.removeAttribute("aria-sort");
    if (order) heading.setAttribute("aria-sort", order);
    const by = order ? column : 0;
    const sign = order === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a, by), value(b, by)];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || value(a, 0) - value(b, 0);
      return sign * (x - y) || value(a, 0) - value(b, 0);
    });
    body.append(...rows);
    table.classList.toggle("sorted", Boolean(order));
  };
  for (const table of document.querySelectorAll("table")) {
    // The first heading spans both lines; the second line's headings are columns 1 and on.
    const headings = [...table.querySelectorAll("th:has(> button.sort)")];
    headings.forEach((heading, column) => {
      heading.firstElementChild.addEventListener("click", () => sortBy(table, heading, column));
    });
  }

  // Values on hovering and by keyboard: what a chart's mark is called is its value. A chart is one
  // stop of the Tab key; the arrow keys go from mark to mark.
  const tip = document.getElementById("tip");
  for (const chart of document.querySelectorAll(".chart")) {
    const marks = [...chart.querySelectorAll("[aria-roledescription=value]")];
    marks.forEach((mark, place) => {
      mark.dataset.tip = mark.getAttribute("aria-label");
      mark.setAttribute("tabindex", place ? -1 : 0);
      mark.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const next = step && marks[place + step];
        if (!next) return;
        event.preventDefault();
        mark.setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      });
    });
  }
  let shown = null;
  const hide = () => {
    if (shown) shown.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  };
  const show = (target, x, y) => {
    if (shown !== target) {
      hide();
      shown = target;
      tip.textContent = target.dataset.tip;
      tip.hidden = false;
      target.setAttribute("aria-describedby", "tip");
    }
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };
  const tipped = (event) => event.target.closest && event.target.closest("[data-tip]");
  const follow = (event) => {
    const target = tipped(event);
    if (target) show(target, event.clientX, event.clientY);
    else hide();
  };
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow);
  document.addEventListener("pointerleave", hide);
  document.addEventListener("focusin", (event) => {
    const target = tipped(event);
    if (!target || !event.target.matches(":focus-visible")) return;
    const box = target.getBoundingClientRect();
    show(target, box.left, box.bottom - 8);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
