// @ts-check
/** <table-filter>: a field that hides the table rows of a page without all the words typed; the address keeps the words. */
import { element } from "../lib/element.js";

export default class TableFilter extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    const field = element("input", { type: "search", placeholder: "note, value, cell, test …", ariaLabel: "show only rows with these words" });
    const status = element("span", { role: "status" });
    const rows = /** @type {HTMLElement[]} */ (Array.from(document.querySelectorAll("article tbody tr")));
    const texts = rows.map((row) => (row.textContent ?? "").toLowerCase());
    const filter = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((/** @type {string} */ word) => texts[i].includes(word));
        count += Number(!row.hidden);
      });
      status.textContent = words.length ? `${count} of ${rows.length} rows` : "";
      const address = new URL(location.href);
      words.length ? address.searchParams.set("rows", words.join(" ")) : address.searchParams.delete("rows");
      history.replaceState(history.state, "", address);
    };
    field.addEventListener("input", filter);
    this.append(field, status);
    field.value = new URLSearchParams(location.search).get("rows") ?? "";
    if (field.value) filter();
  }
}
