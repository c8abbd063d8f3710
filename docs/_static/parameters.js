// The page of parameters: a field that finds keywords in its folded tables, and the titles of columns
// for phones, where each row stands as lines under each other (fastmlp.css).
document.addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("section#parameters details table")];
  if (!tables.length) return;
  const rows = tables.flatMap((table) => {
    const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const ofTable = [...table.tBodies[0].rows];
    for (const row of ofTable)
      [...row.cells].forEach((cell, i) => (cell.dataset.title = titles[i]));
    return ofTable;
  });
  const field = document.createElement("input");
  field.type = "search";
  field.className = "form-control";
  field.placeholder = field.ariaLabel = "Find a keyword, ours or another's";
  document.querySelector("section#parameters > p").after(field);
  field.addEventListener("input", () => {
    const asked = field.value.toLowerCase().trim();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(asked);
    for (const table of tables) {
      const some = [...table.tBodies[0].rows].some((row) => !row.hidden);
      const folded = table.closest("details");
      folded.open = asked.length > 0 && some;
      folded.hidden = !some;
      // Keywords that were not asked for would stand before the rows that were.
      folded.querySelector("summary").style.display = asked.length > 0 ? "none" : "";
    }
    for (const section of new Set(tables.map((table) => table.closest("section"))))
      section.hidden = !section.querySelector("details:not([hidden])");
  });
});
