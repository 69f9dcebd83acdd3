// The library as a table that can be sorted and filtered; a row starts a search with that file.

import { queryString, request } from "./api.js";
import { byId, element, formatCount, formatDuration, showProblem } from "./dom.js";
import { Filters } from "./filters.js";
import { thumbnail } from "./results.js";

const PAGE_ITEMS = 60;

export class LibraryView {
  constructor() {
    this.sort = "name";
    this.nextOffset = null;
    this.requestNumber = 0; // a response to an older request is ignored
    this.filters = new Filters("library-filters", () => this.load());
    byId("more-items").addEventListener("click", () => this.load(this.nextOffset));
    for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => this.#sortBy(button.dataset.sort));
  }

  fill(library) {
    byId("library-facts").textContent = [
      formatCount(library.videos, "video", "videos"), formatCount(library.audio_files, "sound", "sounds"),
      formatCount(library.moments, "moment", "moments"), `${formatDuration(library.seconds)} in total`,
    ].join(", ");
    this.filters.fill(library);
  }

  async load(offset = 0) {
    const number = ++this.requestNumber;
    try {
      const page = await request(`/items${queryString({ ...this.filters.values, sort: this.sort, limit: PAGE_ITEMS, offset })}`);
      if (number !== this.requestNumber) return;
      showProblem(byId("library-problem"), null);
      const rows = page.items.map((item) => this.#row(item));
      if (offset) byId("items").append(...rows);
      else byId("items").replaceChildren(...rows);
      if (!page.total) byId("items").append(element("tr", {}, element("td", { class: "nothing", colspan: 6 }, "No file matches these filters.")));
      this.nextOffset = page.next_offset;
      byId("more-items").hidden = page.next_offset === null;
    } catch (problem) {
      showProblem(byId("library-problem"), problem);
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
    const label = item.label === null ? null : element("span", { class: "label" }, item.label);
    return element("tr", {},
      element("td", { class: "preview" }, thumbnail(item)),
      element("td", { class: "name" }, element("a", { href: `#/search?item=${item.id}` }, item.title), element("small", {}, item.name), item.missing ? element("small", { class: "missing" }, "file is missing") : null),
      element("td", { class: "wide" }, item.folder_name),
      element("td", { class: "wide" }, label),
      element("td", { class: "figure" }, formatDuration(item.duration_seconds)),
      element("td", { class: "figure wide" }, String(item.moments)),
    );
  }
}
