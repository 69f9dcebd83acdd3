// Moments that were kept: remembered by this browser, saved as CSV for an editing program.

import { ask } from "./api.js";
import { clock, counted, find, make, save, toast } from "./dom.js";

const PLACE = "cmmixer-kept";
const COLUMNS = ["name", "folder", "label", "start_seconds", "end_seconds", "score", "query", "query_start_seconds", "query_end_seconds", "item"];

/** A cell that no spreadsheet takes for a formula. */
function cell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export class Kept {
  constructor() {
    try { this.rows = JSON.parse(localStorage.getItem(PLACE)) ?? []; } catch { this.rows = []; }
    find("kept-csv").addEventListener("click", () => this.#save(this.csv(), "text/csv", "kept.csv"));
    find("kept-edl").addEventListener("click", () => this.#edl());
    find("kept-clear").addEventListener("click", () => { this.rows = []; this.#store(); });
    this.show();
  }

  #place(hit) { return this.rows.findIndex((row) => row.item === hit.item.id && row.start_seconds === hit.moment.start_seconds); }
  has(hit) { return this.#place(hit) >= 0; }

  /** Keeps a hit of a search for a target, or lets it go; says which. */
  toggle(hit, asked, target) {
    const place = this.#place(hit);
    if (place >= 0) this.rows.splice(place, 1);
    else {
      this.rows.push({
        item: hit.item.id, target, name: hit.item.name, title: hit.item.title, folder: hit.item.folder_name, label: hit.item.label, score: hit.score,
        start_seconds: hit.moment.start_seconds, end_seconds: hit.moment.end_seconds,
        query: asked.name, query_start_seconds: hit.query_moment.start_seconds, query_end_seconds: hit.query_moment.end_seconds,
      });
    }
    this.#store();
    return place < 0;
  }

  csv() {
    return [COLUMNS.join(","), ...this.rows.map((row) => COLUMNS.map((column) => cell(row[column])).join(","))].join("\r\n") + "\r\n";
  }

  show() {
    const count = find("kept-count");
    count.hidden = !this.rows.length;
    count.textContent = String(this.rows.length);
    find("kept-facts").textContent = this.rows.length ? `${counted(this.rows.length, "moment", "moments")}, remembered by this browser` : "Nothing yet. Keep a find with K, and it waits here for your edit.";
    for (const id of ["kept-csv", "kept-edl", "kept-rate", "kept-clear"]) find(id).hidden = !this.rows.length;
    find("kept-list").replaceChildren(...this.rows.map((row, place) => make("li", {},
      make("span", {}, make("a", { class: "hit-title", href: `#/search?item=${row.item}&start=${row.start_seconds}` }, row.title),
        make("span", { class: "hit-facts" }, `${clock(row.start_seconds)} – ${clock(row.end_seconds)} · for ${row.query} at ${clock(row.query_start_seconds)}`)),
      make("button", { type: "button", class: "tool", "aria-label": `Let go of ${row.title}`, onclick: () => { this.rows.splice(place, 1); this.#store(); } }, "Let go"),
    )));
  }

  #store() {
    try { localStorage.setItem(PLACE, JSON.stringify(this.rows)); } catch { /* a browser that keeps nothing keeps it for this visit */ }
    this.show();
  }

  /** An edit decision list, in which each moment is one event. */
  async #edl() {
    const targets = new Set(this.rows.map((row) => row.target));
    const moments = this.rows.map(({ item, start_seconds, end_seconds, score, query_start_seconds, query_end_seconds }) =>
      ({ item, start_seconds, end_seconds, score, query_start_seconds, query_end_seconds }));
    try {
      const list = await ask("/cutlists", { method: "POST", text: true, body: {
        moments, target: targets.size === 1 ? [...targets][0] : "film", frames_per_second: Number(find("kept-rate").value), query: this.rows[0].query,
      } });
      this.#save(list, "text/plain", "kept.edl");
    } catch (problem) {
      toast(`${problem.title}: ${problem.detail}`);
    }
  }

  #save(text, type, name) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    save(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}
