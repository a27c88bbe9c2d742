// Sorts the rows of a table by the column that is clicked, and shows those that hold the words of the search field.
for (const table of document.querySelectorAll("table.rows")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = table.closest("section").querySelector("input");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const value = (row, place) => {
    const text = row.cells[place].textContent.trim();
    return text === "" || isNaN(text) ? text : Number(text);
  };

  search.hidden = false;
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row, place) => { row.hidden = !words.every((word) => texts[place].includes(word)); });
  });

  [...table.tHead.rows[0].cells].forEach((cell, place, cells) => {
    cell.addEventListener("click", () => {
      const direction = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      cells.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const sorted = [...rows].sort((left, right) => {
        const [a, b] = [value(left, place), value(right, place)];
        return typeof a !== typeof b ? (typeof a === "number" ? -1 : 1) : sign * (a < b ? -1 : a > b ? 1 : 0);
      });
      body.append(...sorted);
    });
  });
}
