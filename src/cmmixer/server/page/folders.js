// The dialog that indexes a folder: choose it, watch the job, cancel it, see which files were skipped.

import { queryString, request, watchJob } from "./api.js";
import { announce, byId, element, formatCount, formatDuration, icon, showProblem, toast } from "./dom.js";

const FOLDER_ICON = "M2.5 5.500h5l1.5 2h8.500v8.500h-15z";
const ENDED = ["done", "failed", "cancelled"];

const lastPart = (folder) => folder.name.split("/").pop();

export class FoldersDialog {
  /** `changed` is called when the library may have changed. */
  constructor(changed) {
    this.changed = changed;
    this.dialog = byId("folders-dialog");
    this.path = []; // the folders from the top to the one that is shown
    this.job = null;
    byId("open-folders").addEventListener("click", () => this.open());
    byId("job-open").addEventListener("click", () => this.open());
    byId("start-job").addEventListener("click", () => this.#start());
    byId("cancel-job").addEventListener("click", () => this.#cancel());
    byId("another-folder").addEventListener("click", () => { this.job = null; this.#list([]); });
  }

  open() {
    this.dialog.showModal();
    if (this.job) this.#showJob(this.job);
    else this.#list([]);
  }

  /** Watches a job that is already running, as after the page was reloaded. */
  async resume() {
    const { jobs } = await request("/jobs");
    const running = jobs.find((job) => !ENDED.includes(job.state));
    if (running) this.#watch(running);
  }

  /** Lists the last folder of a path, or the allowed folders where the path is empty. */
  async #list(path) {
    this.path = path;
    const parent = path.at(-1);
    byId("folders-choice").hidden = false;
    byId("job-panel").hidden = true;
    byId("start-job").disabled = !parent;
    showProblem(byId("folders-problem"), null);
    try {
      const listing = await request(`/folders${queryString({ parent: parent?.id })}`);
      byId("breadcrumbs").replaceChildren(
        parent ? element("button", { type: "button", onclick: () => this.#list([]) }, "All folders") : element("b", {}, "Folders that may be indexed"),
        ...path.map((folder, depth) => (folder === parent
          ? element("b", {}, lastPart(folder))
          : element("button", { type: "button", onclick: () => this.#list(path.slice(0, depth + 1)) }, lastPart(folder)))),
      );
      byId("folder-list").replaceChildren(...listing.folders.map((folder) => element("li", {},
        element("button", { type: "button", onclick: () => this.#list([...path, folder]) },
          icon(FOLDER_ICON), lastPart(folder), element("span", { class: "quiet" }, folder.items ? `${folder.items} in the library` : "")))));
      const empty = parent ? "No subfolders. Index this folder?" : "None. Start the service with --roots FOLDER to allow some.";
      if (!listing.folders.length) byId("folder-list").append(element("li", { class: "empty" }, empty));
    } catch (problem) {
      showProblem(byId("folders-problem"), problem);
    }
  }

  async #start() {
    try {
      const body = { folder: this.path.at(-1).id, remove_missing: byId("remove-missing").checked };
      this.#watch(await request("/jobs", { method: "POST", body }));
      byId("cancel-job").focus();
    } catch (problem) {
      showProblem(byId("folders-problem"), problem);
    }
  }

  async #cancel() {
    if (!this.job || ENDED.includes(this.job.state)) { this.dialog.close(); return; }
    try {
      this.#showJob(await request(`/jobs/${this.job.id}`, { method: "DELETE" }));
    } catch (problem) {
      toast(problem.detail);
    }
  }

  #watch(job) {
    this.#showJob(job);
    announce(`Indexing ${job.folder_name} has started.`);
    watchJob(job.id, (state) => {
      this.#showJob(state);
      if (ENDED.includes(state.state)) {
        this.changed();
        const outcome = state.state === "done" ? `${formatCount(state.report.added, "file", "files")} added` : state.problem ?? state.phase;
        announce(`${state.folder_name}: ${outcome}`);
        if (!this.dialog.open) toast(`${state.folder_name}: ${outcome}`);
      }
    }, () => toast("The connection to the service was lost; reload the page to see how indexing proceeds."));
  }

  #showJob(job) {
    this.job = job;
    const ended = ENDED.includes(job.state);
    byId("folders-choice").hidden = true;
    byId("job-panel").hidden = false;
    byId("job-panel").dataset.state = job.state;
    byId("job-name").textContent = job.folder_name;
    for (const bar of [byId("job-bar"), byId("job-bar-small")]) {
      if (ended) { bar.max = 1; bar.value = 1; } else if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
    }
    const left = job.seconds_left === null ? "" : `, about ${formatDuration(job.seconds_left)} left`;
    byId("job-phase").textContent = job.state === "cancelling" ? "stopping" : job.phase;
    byId("job-figures").textContent = ended ? formatDuration(job.seconds) : job.total ? `${job.done} of ${job.total}${left}` : "";
    byId("job-strip").hidden = ended;
    byId("job-line").textContent = `Indexing ${job.folder_name}`;
    byId("cancel-job").textContent = ended ? "Close" : "Cancel";
    byId("cancel-job").disabled = job.state === "cancelling";
    byId("another-folder").hidden = !ended;
    byId("job-result").replaceChildren(...this.#result(job));
  }

  #result(job) {
    if (job.problem) return [element("div", { class: "problem" }, element("strong", {}, "Indexing failed"), job.problem)];
    if (!job.report) return [];
    const tally = (count, label) => element("div", {}, element("b", {}, count.toLocaleString("en")), element("span", { class: "quiet" }, label));
    const { report } = job;
    const result = [element("div", { class: "tally" },
      tally(report.added, "added"), tally(report.changed, "changed"), tally(report.unchanged, "unchanged"),
      report.removed ? tally(report.removed, "removed") : null, tally(job.skipped_total, "skipped"))];
    if (job.skipped_total) {
      result.push(element("h3", { class: "visually-hidden" }, "Skipped files"), element("ul", { class: "skips", tabindex: "0", "aria-label": "Skipped files" },
        job.skipped.map((skip) => element("li", {}, skip.name, element("small", {}, skip.message)))));
    }
    return result;
  }
}
