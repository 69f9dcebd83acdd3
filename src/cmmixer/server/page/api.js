// The service over HTTP; every failure is a Problem with title and detail.

const BASE = "/api/v1";

export class Problem extends Error {
  constructor({ title, detail, status = 0, type = "" }) {
    super(detail);
    Object.assign(this, { title, detail, status, type });
  }
}

const unreachable = () => new Problem({ title: "The service does not answer", detail: "Is it still running? Try again in a moment." });

async function problemOf(response) {
  try {
    return new Problem(await response.json());
  } catch {
    return new Problem({ title: "That did not work", detail: `The service answered ${response.status}.`, status: response.status });
  }
}

/** Asks and gives the JSON of the answer, or its text. */
export async function ask(path, { method = "GET", body, signal, text = false } = {}) {
  let response;
  try {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    response = await fetch(BASE + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw unreachable();
  }
  if (!response.ok) throw await problemOf(response);
  if (text) return response.text();
  return response.status === 204 ? null : response.json();
}

/** A query string of what is given; lists become repeated names. */
export function params(values) {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) told.append(name, one);
  }
  return told.size ? `?${told}` : "";
}

/** Sends a file; `progress` gets 0 .. 1 while it travels. Returns { done: promise of the query, cancel }. */
export function upload(file, progress) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.open("POST", `${BASE}/queries${params({ name: file.name })}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.upload.onload = () => progress(1);
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new Problem(request.response ?? { title: "That did not work", detail: `The service answered ${request.status}.`, status: request.status }));
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.setRequestHeader("content-type", "application/octet-stream");
    request.send(file);
  });
  return { done, cancel: () => request.abort() };
}

/** Listens to a job until it ends; `seen` gets each state. Returns how to stop. */
export function watchJob(id, seen, lost) {
  const events = new EventSource(`${BASE}/jobs/${id}/events`);
  events.addEventListener("progress", (event) => seen(JSON.parse(event.data)));
  events.addEventListener("end", (event) => { events.close(); seen(JSON.parse(event.data)); });
  events.onerror = () => { if (events.readyState === EventSource.CLOSED) lost(); };
  return () => events.close();
}

export const mediaOf = {
  playback: (source, sense, seconds, convert) => `/${source.query ? "queries" : "items"}/${source.query ?? source.item}/playback${params({ sense, seconds: Math.max(0, seconds).toFixed(2), convert: convert || undefined })}`,
  download: (id, sense) => `${BASE}/items/${id}/media?sense=${sense}&download=true`,
  thumbnail: (id, seconds) => `${BASE}/items/${id}/thumbnail${params({ seconds: seconds === undefined ? undefined : seconds.toFixed(1) })}`,
};

// Waveforms are asked for a few at a time, and each once.
const kept = new Map();
const waiting = [];
let running = 0;

function next() {
  while (running < 3 && waiting.length) {
    running += 1;
    const { path, resolve, reject } = waiting.shift();
    ask(path).then(resolve, reject).finally(() => { running -= 1; next(); });
  }
}

/** The waveform behind a path, remembered. */
export function peaks(path) {
  if (!kept.has(path)) {
    const promise = new Promise((resolve, reject) => { waiting.push({ path, resolve, reject }); next(); });
    promise.catch(() => kept.delete(path));
    kept.set(path, promise);
  }
  return kept.get(path);
}

export const itemPeaks = (id, start, end, bins = 160) =>
  peaks(`/items/${id}/peaks${params({ start_seconds: start, end_seconds: end, bins })}`);
export const queryPeaks = (id, bins = 400) => peaks(`/queries/${id}/peaks${params({ bins })}`);
