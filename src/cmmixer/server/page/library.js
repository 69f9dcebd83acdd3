// The library as a table, sorted by any column; a row begins a search with that file.

import { ask, params } from "./api.js";
import { counted, find, length, make, showProblem } from "./dom.js";
import { Filters } from "./filters.js";
import { thumb } from "./results.js";

export class LibraryView {
  constructor() {
    this.sort = "name";
    this.next = null;
    this.turn = 0;
    this.filters = new Filters(find("library-filters"), find("toggle-library-filters"), find("library-filter-count"), () => this.load());
    find("more-items").addEventListener("click", () => this.load(this.next));
    for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => this.#sortBy(button.dataset.sort));
  }

  fill(library) {
    find("library-facts").textContent = `${counted(library.films, "film", "films")}, ${counted(library.sounds, "sound", "sounds")}, ${counted(library.moments, "moment", "moments")}, ${length(library.seconds)} in all`;
    this.filters.fill(library);
  }

  async load(offset = 0) {
    const turn = ++this.turn;
    try {
      const page = await ask(`/items${params({ ...this.filters.values, sort: this.sort, limit: 60, offset })}`);
      if (turn !== this.turn) return;
      showProblem(find("library-problem"), null);
      const rows = page.items.map((item) => this.#row(item));
      if (offset) find("items").append(...rows);
      else find("items").replaceChildren(...rows);
      if (!page.total) find("items").append(make("tr", {}, make("td", { class: "nothing", colspan: 6 }, "No file of the library fits these filters.")));
      this.next = page.next_offset;
      find("more-items").hidden = page.next_offset === null;
    } catch (problem) {
      showProblem(find("library-problem"), problem);
    }
  }

  #sortBy(column) {
    this.sort = this.sort === column ? `-${column}` : column;
    for (const head of document.querySelectorAll(".items th")) {
      const name = head.querySelector("button").dataset.sort;
      if (name === column) head.setAttribute("aria-sort", this.sort.startsWith("-") ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    this.load();
  }

  #row(item) {
    const label = item.label === null ? null : make("span", { class: "label" }, item.label);
    return make("tr", {},
      make("td", { class: "preview" }, thumb(item)),
      make("td", { class: "name" }, make("a", { href: `#/search?item=${item.id}` }, item.title), make("small", {}, item.name), item.missing ? make("small", { class: "gone" }, "the file has gone") : null),
      make("td", { class: "wide" }, item.folder_name),
      make("td", { class: "wide" }, label),
      make("td", { class: "figure" }, length(item.duration_seconds)),
      make("td", { class: "figure wide" }, String(item.moments)),
    );
  }
}
