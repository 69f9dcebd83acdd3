// What the library is narrowed to; the same form for finds and for the library.

import { make } from "./dom.js";

const LATE_MS = 300;

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
    const columns = library.columns.filter((column) => column !== "label");
    this.form.replaceChildren(
      field("Name contains", make("input", { name: "text", type: "search", autocomplete: "off" })),
      field("Folder", make("select", { name: "folder" }, option("", "any"), library.folders.map((folder) => option(folder.id, `${folder.name} (${folder.items})`)))),
      library.labels.length ? field("Label", make("select", { name: "label" }, option("", "any"), library.labels.map((label) => option(label.value, `${label.value} (${label.items})`)))) : null,
      field("Kind", make("select", { name: "kind" }, option("", "films and sounds"), option("film", "films"), option("sound", "sounds"))),
      make("div", { class: "field", role: "group", "aria-label": "Length in seconds" }, "Length in seconds", make("span", { class: "pair" }, number("min_seconds", "from"), number("max_seconds", "to"))),
      make("div", { class: "field", role: "group", "aria-label": "Another column" }, "Another column", make("span", { class: "pair" },
        make("select", { name: "column", "aria-label": "Column" }, columns.map((column) => option(column, column))),
        make("input", { name: "value", type: "search", autocomplete: "off", "aria-label": "Value of the column", placeholder: "is" }))),
      make("button", { type: "reset", class: "tool", onclick: () => setTimeout(() => this.#read()) }, "Clear"),
    );
    for (const [name, value] of Object.entries(this.values)) {
      const input = this.form.elements[name];
      if (input && name !== "where") input.value = value;
    }
  }

  #read() {
    const told = new FormData(this.form);
    const values = {};
    for (const name of ["text", "folder", "label", "kind", "min_seconds", "max_seconds"]) if (told.get(name)) values[name] = told.get(name);
    if (told.get("value")) values.where = `${told.get("column")}:${told.get("value")}`;
    this.values = values;
    const count = Object.keys(values).length;
    this.count.hidden = count === 0;
    this.count.textContent = String(count);
    this.changed(values);
  }
}
