// What the library is narrowed to; the same form for finds and for the library.

import { make } from "./dom.js";

const LATE_MS = 300;
// Columns of the manifests with a list of their own; all others are to be typed.
const MOST_LISTS = 6;
const MOST_VALUES = 50;
const LONGEST = 400; // the service takes no longer texts

export class Filters {
  /** `changed` is called with the values when the reader has paused. */
  constructor(form, toggle, count, changed) {
    Object.assign(this, { form, toggle, count, changed });
    this.values = {};
    this.timer = null;
    toggle.addEventListener("click", () => this.open(form.hidden));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.#read(), LATE_MS); });
  }

  open(open) {
    this.form.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open) this.form.querySelector("input")?.focus();
  }

  /** Makes the form for what the library holds. */
  fill(library) {
    const option = (value, told) => make("option", { value }, told);
    const field = (told, input) => make("label", { class: "field" }, told, input);
    const number = (name, told) => make("input", { name, type: "number", min: 0, step: "any", placeholder: told, "aria-label": `Length ${told} seconds` });
    const clause = (column, facet) => `${column.name}:${facet.value}`;
    const listed = library.metadata.filter((column) => column.values.length <= MOST_VALUES && column.values.every((facet) => clause(column, facet).length <= LONGEST)).slice(0, MOST_LISTS);
    const columns = library.columns.filter((column) => column !== "label" && !listed.some((one) => one.name === column));
    this.form.replaceChildren(...[
      field("Name contains", make("input", { name: "text", type: "search", autocomplete: "off" })),
      field("Folder", make("select", { name: "folder" }, option("", "any"), library.folders.map((folder) => option(folder.id, `${folder.name} (${folder.items})`)))),
      library.labels.length ? field("Label", make("select", { name: "label" }, option("", "any"), library.labels.map((label) => option(label.value, `${label.value} (${label.items})`)))) : null,
      listed.map((column) => field(column.name, make("select", { name: "where" }, option("", "any"), column.values.filter((facet) => facet.value).map((facet) => option(clause(column, facet), `${facet.value} (${facet.items})`))))),
      field("Kind", make("select", { name: "kind" }, option("", "films and sounds"), option("film", "films"), option("sound", "sounds"))),
      make("div", { class: "field", role: "group", "aria-label": "Length in seconds" }, "Length in seconds", make("span", { class: "pair" }, number("min_seconds", "from"), number("max_seconds", "to"))),
      make("div", { class: "field", role: "group", "aria-label": "Another column" }, "Another column", make("span", { class: "pair" },
        make("select", { name: "column", "aria-label": "Column" }, columns.map((column) => option(column, column))),
        make("input", { name: "value", type: "search", autocomplete: "off", maxlength: LONGEST, "aria-label": "Value of the column", placeholder: "is" }))),
      make("button", { type: "reset", class: "tool", onclick: () => setTimeout(() => this.#read()) }, "Clear"),
    ].flat().filter(Boolean));
    for (const [name, value] of Object.entries(this.values)) {
      const input = this.form.elements[name];
      if (input && name !== "where") input.value = value;
    }
    for (const told of this.values.where ?? []) {
      const chosen = [...this.form.querySelectorAll("select[name=where]")].find((select) => [...select.options].some((one) => one.value === told));
      const column = columns.find((one) => told.startsWith(`${one}:`));
      if (chosen) chosen.value = told;
      else if (column) { this.form.elements.column.value = column; this.form.elements.value.value = told.slice(column.length + 1); }
    }
  }

  #read() {
    const told = new FormData(this.form);
    const values = {};
    for (const name of ["text", "folder", "label", "kind", "min_seconds", "max_seconds"]) if (told.get(name)) values[name] = told.get(name);
    const where = told.getAll("where").filter(Boolean);
    if (told.get("value")) where.push(`${told.get("column")}:${told.get("value")}`);
    const count = Object.keys(values).length + where.length;
    if (where.length) values.where = where;
    this.values = values;
    this.count.hidden = count === 0;
    this.count.textContent = String(count);
    this.changed(values);
  }
}
