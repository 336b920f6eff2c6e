"use strict";
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, column = head.cellIndex, table = head.closest("table");
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    for (const body of table.querySelectorAll("tbody:not(.fixed)")) {
      const rows = [...body.querySelectorAll("tr:not(.group)")];
      const key = (row) => row.cells[column]?.dataset.key ?? "";
      const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return falling ? -order : order;
      });
      body.append(...rows);
    }
  });
}
