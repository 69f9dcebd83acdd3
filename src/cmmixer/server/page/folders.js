// Indexing a folder from the page: choosing it, watching it, cancelling it, what was left out.

import { ask, params, watchJob } from "./api.js";
import { announce, counted, find, icon, length, make, showProblem, toast } from "./dom.js";

const FOLDER = "M2.500 5.500h5l1.500 2h8.500v8.500h-15z";
const ENDED = ["done", "failed", "cancelled"];

export class FoldersDialog {
  /** `changed` is called when the library may hold something new. */
  constructor(changed) {
    this.changed = changed;
    this.dialog = find("folders-dialog");
    this.trail = [];
    this.job = null;
    find("open-folders").addEventListener("click", () => this.open());
    find("job-open").addEventListener("click", () => this.open());
    find("start-job").addEventListener("click", () => this.#start());
    find("cancel-job").addEventListener("click", () => this.#cancel());
    find("another-folder").addEventListener("click", () => { this.job = null; this.#list(null, []); });
  }

  open() {
    this.dialog.showModal();
    if (this.job) this.#show(this.job);
    else this.#list(null, []);
  }

  /** Takes up a job that runs already, as after the page was loaded anew. */
  async resume() {
    const { jobs } = await ask("/jobs");
    const running = jobs.find((job) => !ENDED.includes(job.state));
    if (running) this.#watch(running);
  }

  async #list(parent, trail) {
    this.trail = trail;
    find("folders-choice").hidden = false;
    find("job-panel").hidden = true;
    find("start-job").disabled = parent === null;
    showProblem(find("folders-problem"), null);
    try {
      const listing = await ask(`/folders${params({ parent: parent?.id })}`);
      find("crumbs").replaceChildren(
        parent ? make("button", { type: "button", onclick: () => this.#list(null, []) }, "All folders") : make("b", {}, "Folders that may be indexed"),
        ...trail.map((folder, place) => (place === trail.length - 1
          ? make("b", {}, folder.name.split("/").pop())
          : make("button", { type: "button", onclick: () => this.#list(folder, trail.slice(0, place + 1)) }, folder.name.split("/").pop()))),
      );
      const empty = parent ? "No folders inside. Index this one?" : "None. Start the service with --roots FOLDER to allow some.";
      find("folder-list").replaceChildren(...listing.folders.map((folder) => make("li", {},
        make("button", { type: "button", onclick: () => this.#list(folder, [...trail, folder]) },
          icon(FOLDER), folder.name.split("/").pop(), make("span", { class: "quiet" }, folder.items ? `${folder.items} in the library` : "")))));
      if (!listing.folders.length) find("folder-list").append(make("li", { class: "empty" }, empty));
    } catch (problem) {
      showProblem(find("folders-problem"), problem);
    }
  }

  async #start() {
    try {
      const job = await ask("/jobs", { method: "POST", body: { folder: this.trail.at(-1).id, remove_gone: find("remove-gone").checked } });
      this.#watch(job);
      find("cancel-job").focus();
    } catch (problem) {
      showProblem(find("folders-problem"), problem);
    }
  }

  async #cancel() {
    if (!this.job || ENDED.includes(this.job.state)) { this.dialog.close(); return; }
    try {
      this.#show(await ask(`/jobs/${this.job.id}`, { method: "DELETE" }));
    } catch (problem) {
      toast(problem.detail);
    }
  }

  #watch(job) {
    this.#show(job);
    announce(`Indexing ${job.folder_name} has begun.`);
    watchJob(job.id, (state) => {
      this.#show(state);
      if (ENDED.includes(state.state)) {
        this.changed();
        const told = state.state === "done" ? `${state.folder_name}: ${counted(state.report.added, "file", "files")} added` : `${state.folder_name}: ${state.problem ?? state.phase}`;
        announce(told);
        if (!this.dialog.open) toast(told);
      }
    }, () => toast("The service has stopped telling how indexing goes on."));
  }

  #show(job) {
    this.job = job;
    const over = ENDED.includes(job.state);
    find("folders-choice").hidden = true;
    find("job-panel").hidden = false;
    find("job-panel").dataset.state = job.state;
    find("job-name").textContent = job.folder_name;
    for (const bar of [find("job-bar"), find("job-bar-small")]) {
      if (over) { bar.max = 1; bar.value = 1; } else if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
    }
    const left = job.seconds_left === null ? "" : `, about ${length(job.seconds_left)} left`;
    find("job-phase").textContent = job.state === "cancelling" ? "stopping after this film" : job.phase;
    find("job-figures").textContent = over ? length(job.seconds) : job.total ? `${job.done} of ${job.total}${left}` : "";
    find("job-strip").hidden = over;
    find("job-line").textContent = `Indexing ${job.folder_name}`;
    find("cancel-job").textContent = over ? "Close" : "Cancel";
    find("cancel-job").disabled = job.state === "cancelling";
    find("another-folder").hidden = !over;
    find("job-result").replaceChildren(...this.#result(job));
  }

  #result(job) {
    if (job.problem) return [make("div", { class: "problem" }, make("strong", {}, "That did not work"), job.problem)];
    if (!job.report) return [];
    const tally = (value, told) => make("div", {}, make("b", {}, value.toLocaleString("en")), make("span", { class: "quiet" }, told));
    const { report } = job;
    const shown = [make("div", { class: "tally" }, tally(report.added, "added"), tally(report.changed, "changed"), tally(report.unchanged, "as before"), report.removed ? tally(report.removed, "taken out") : null, tally(job.skipped_total, "left out"))];
    if (job.skipped_total) {
      shown.push(make("h3", { class: "unseen" }, "Files that were left out"), make("ul", { class: "skips", tabindex: "0", "aria-label": "Files that were left out" },
        job.skipped.map((skip) => make("li", {}, skip.name, make("small", {}, skip.message)))));
    }
    return shown;
  }
}
