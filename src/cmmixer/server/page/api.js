// The HTTP interface of the service. Every failure is a Problem with a title and a detail.

const BASE = "/api/v1";
const MAX_PEAK_REQUESTS = 3;

export class Problem extends Error {
  constructor({ title, detail, status = 0, type = "" }) {
    super(detail);
    Object.assign(this, { title, detail, status, type });
  }
}

const unreachable = () => new Problem({ title: "The service does not answer", detail: "Is it still running? Try again in a moment." });
const unexplained = (status) => new Problem({ title: "Something went wrong", detail: `The service answered with status ${status}.`, status });

async function problemOf(response) {
  try {
    return new Problem(await response.json());
  } catch {
    return unexplained(response.status);
  }
}

/** Sends a request and returns the JSON of the response, or its text. */
export async function request(path, { method = "GET", body, signal, text = false } = {}) {
  let response;
  try {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    response = await fetch(BASE + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw await problemOf(response);
  if (text) return response.text();
  return response.status === 204 ? null : response.json();
}

/** Returns a query string of the values that are set; a list becomes a repeated name. */
export function queryString(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) search.append(name, each);
  }
  return search.size ? `?${search}` : "";
}

/** Uploads a file; `progress` is called with 0 .. 1 while it is sent. Returns { done: promise of the query, cancel }. */
export function upload(file, progress) {
  const xhr = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    xhr.open("POST", `${BASE}/queries${queryString({ name: file.name })}`);
    xhr.responseType = "json";
    xhr.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    xhr.upload.onload = () => progress(1);
    xhr.onload = () => {
      if (xhr.status === 201) resolve(xhr.response);
      else reject(xhr.response ? new Problem(xhr.response) : unexplained(xhr.status));
    };
    xhr.onerror = () => reject(unreachable());
    xhr.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    xhr.setRequestHeader("content-type", "application/octet-stream");
    xhr.send(file);
  });
  return { done, cancel: () => xhr.abort() };
}

/** Watches a job until it ends; `onState` is called with each state, `onLost` when the connection is lost. */
export function watchJob(id, onState, onLost) {
  const events = new EventSource(`${BASE}/jobs/${id}/events`);
  events.addEventListener("progress", (event) => onState(JSON.parse(event.data)));
  events.addEventListener("end", (event) => { events.close(); onState(JSON.parse(event.data)); });
  events.onerror = () => { if (events.readyState === EventSource.CLOSED) onLost(); };
}

/** Asks what this browser can play of a file: `source` is { query: ID } or { item: ID }. */
export function requestPlayback(source, modality, seconds, convert) {
  const file = source.query ? `queries/${source.query}` : `items/${source.item}`;
  return request(`/${file}/playback${queryString({ modality, seconds: Math.max(0, seconds).toFixed(2), convert: convert || undefined })}`);
}

export const downloadAddress = (id, modality) => `${BASE}/items/${id}/media?modality=${modality}&download=true`;
export const thumbnailAddress = (id, seconds) => `${BASE}/items/${id}/thumbnail${queryString({ seconds: seconds?.toFixed(1) })}`;

// Waveforms are requested a few at a time, and each only once.
const waveforms = new Map();
const waiting = [];
let running = 0;

function startNext() {
  while (running < MAX_PEAK_REQUESTS && waiting.length) {
    running += 1;
    const { path, resolve, reject } = waiting.shift();
    request(path).then(resolve, reject).finally(() => { running -= 1; startNext(); });
  }
}

function requestPeaks(path) {
  if (!waveforms.has(path)) {
    const promise = new Promise((resolve, reject) => { waiting.push({ path, resolve, reject }); startNext(); });
    promise.catch(() => waveforms.delete(path));
    waveforms.set(path, promise);
  }
  return waveforms.get(path);
}

/** Requests the waveform of a library file or of a span of it. */
export const itemPeaks = (id, start, end, bins = 160) =>
  requestPeaks(`/items/${id}/peaks${queryString({ start_seconds: start, end_seconds: end, bins })}`);

/** Requests the waveform of an upload. */
export const queryPeaks = (id, bins = 400) => requestPeaks(`/queries/${id}/peaks${queryString({ bins })}`);
