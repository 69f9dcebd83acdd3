// The form that filters files of the library, for search results and for the library alike.

import { byId, element } from "./dom.js";

const TYPING_MS = 300;
// Columns of the manifests with a select of their own; for all others the value is typed.
const MAX_SELECTS = 6;
const MAX_VALUES = 50;
const MAX_CLAUSE_LENGTH = 400; // the limit of the service

export class Filters {
  /** Uses the elements `ID`, `toggle-ID` and `ID-count`; `changed` is called when the values have changed. */
  constructor(id, changed) {
    this.form = byId(id);
    this.toggle = byId(`toggle-${id}`);
    this.count = byId(`${id}-count`);
    this.changed = changed;
    this.values = {};
    this.timer = null;
    this.toggle.addEventListener("click", () => this.open(this.form.hidden));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.#read(), TYPING_MS); });
  }

  open(open) {
    this.form.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open) this.form.querySelector("input")?.focus();
  }

  /** Builds the form from the contents of the library, and keeps the values that were set. */
  fill(library) {
    const option = (value, label) => element("option", { value }, label);
    const field = (label, input) => element("label", { class: "field" }, label, input);
    const duration = (name, end) => element("input", { name, type: "number", min: 0, step: "any", placeholder: end, "aria-label": `Length ${end} seconds` });
    const clause = (column, facet) => `${column.name}:${facet.value}`;
    const fitsSelect = (column) => column.values.length <= MAX_VALUES && column.values.every((facet) => clause(column, facet).length <= MAX_CLAUSE_LENGTH);
    const selects = library.metadata.filter(fitsSelect).slice(0, MAX_SELECTS);
    const typedColumns = library.columns.filter((name) => name !== "label" && !selects.some((column) => column.name === name));
    this.form.replaceChildren(...[
      field("Name contains", element("input", { name: "text", type: "search", autocomplete: "off" })),
      field("Folder", element("select", { name: "folder" }, option("", "any"), library.folders.map((folder) => option(folder.id, `${folder.name} (${folder.items})`)))),
      library.labels.length ? field("Label", element("select", { name: "label" }, option("", "any"), library.labels.map((label) => option(label.value, `${label.value} (${label.items})`)))) : null,
      selects.map((column) => field(column.name, element("select", { name: "where" }, option("", "any"), column.values.filter((facet) => facet.value).map((facet) => option(clause(column, facet), `${facet.value} (${facet.items})`))))),
      field("Kind", element("select", { name: "kind" }, option("", "videos and sounds"), option("video", "videos"), option("audio", "sounds"))),
      element("div", { class: "field", role: "group", "aria-label": "Length in seconds" }, "Length in seconds", element("span", { class: "pair" }, duration("min_seconds", "from"), duration("max_seconds", "to"))),
      element("div", { class: "field", role: "group", "aria-label": "Another column" }, "Another column", element("span", { class: "pair" },
        element("select", { name: "column", "aria-label": "Column" }, typedColumns.map((name) => option(name, name))),
        element("input", { name: "value", type: "search", autocomplete: "off", maxlength: MAX_CLAUSE_LENGTH, "aria-label": "Value of the column", placeholder: "is" }))),
      element("button", { type: "reset", class: "tool", onclick: () => setTimeout(() => this.#read()) }, "Clear"),
    ].flat().filter(Boolean));
    this.#restore(typedColumns);
  }

  #restore(typedColumns) {
    for (const [name, value] of Object.entries(this.values)) {
      const input = this.form.elements[name];
      if (input && name !== "where") input.value = value;
    }
    for (const clause of this.values.where ?? []) {
      const select = [...this.form.querySelectorAll("select[name=where]")].find((each) => [...each.options].some((option) => option.value === clause));
      const column = typedColumns.find((name) => clause.startsWith(`${name}:`));
      if (select) select.value = clause;
      else if (column) { this.form.elements.column.value = column; this.form.elements.value.value = clause.slice(column.length + 1); }
    }
  }

  #read() {
    const data = new FormData(this.form);
    const values = {};
    for (const name of ["text", "folder", "label", "kind", "min_seconds", "max_seconds"]) if (data.get(name)) values[name] = data.get(name);
    const where = data.getAll("where").filter(Boolean);
    if (data.get("value")) where.push(`${data.get("column")}:${data.get("value")}`);
    const count = Object.keys(values).length + where.length;
    if (where.length) values.where = where;
    this.values = values;
    this.count.hidden = count === 0;
    this.count.textContent = String(count);
    this.changed(values);
  }
}
