// Tables of claims: a choice of paper, verdict and words above the first one, and names in the cells, by which a phone
// shows every claim as a card. Without the script they are the tables that they were.
(() => {
"use strict";
const columns = (table) => [...(table.tHead?.rows[0].cells || [])].map((head) => head.textContent.trim());
const tables = [...document.querySelectorAll(".bd-article table")].filter((table) => columns(table).includes("verdict"));
if (!tables.length) return;

const rows = tables.flatMap((table) => {
  const names = columns(table);
  table.classList.add("snp-verdicts");
  return [...table.tBodies[0].rows].map((row) => {
    [...row.cells].forEach((cell, i) => (cell.dataset.column = names[i]));
    const get = (name) => row.querySelector(`[data-column="${name}"]`)?.textContent.trim() || "";
    return { row, paper: get("paper") || get("claim").split(".")[0], verdict: get("verdict"), text: row.textContent.toLowerCase() };
  });
});

const choices = (name) => [...new Set(rows.map((row) => row[name]))].map((value) => `<option>${value}</option>`).join("");
const bar = document.createElement("form");
bar.className = "snp-filter";
bar.innerHTML = `<label>paper <select name="paper"><option value="">all</option>${choices("paper")}</select></label>
<label>verdict <select name="verdict"><option value="">all</option>${choices("verdict")}</select></label>
<label>words <input type="search" name="text"></label> <output></output>`;
(tables[0].closest(".cell_output") || tables[0]).before(bar);

function choose() {
  const { paper, verdict, text } = Object.fromEntries(new FormData(bar)), words = text.toLowerCase();
  let shown = 0;
  for (const each of rows) {
    const fits = (!paper || each.paper === paper) && (!verdict || each.verdict === verdict) && each.text.includes(words);
    each.row.hidden = !fits;
    shown += fits;
  }
  bar.querySelector("output").textContent = `${shown} of ${rows.length}`;
}

bar.addEventListener("input", choose);
bar.addEventListener("submit", (event) => event.preventDefault());
choose();
if (location.hash.startsWith("#claim-")) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView({ block: "center" });
})();
