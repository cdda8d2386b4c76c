// Requests to the service. A token, if any, is kept until the tab is closed.

const KEY = "d2r-token";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(KEY);
export const useToken = (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY));

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The service does not answer. Is d2r serve still running?", 0);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(problem.detail ?? `The service responded with status ${response.status}.`, response.status);
}

export const ask = async (path, options) => (await request(path, options)).json();

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

const shown = new Map(); // path of a picture to the promise of an address for an image element

/** Return the address of a picture for an image element, which cannot send a token: with one, the data is fetched. */
export function picture(path) {
  if (!token()) return Promise.resolve(path);
  if (!shown.has(path)) {
    if (shown.size > 400) forget();
    shown.set(path, load(path));
  }
  return shown.get(path);
}

async function load(path) {
  for (let attempt = 0; ; attempt++) {
    try {
      return URL.createObjectURL(await (await request(path)).blob());
    } catch (error) {
      if (error.status !== 429 || attempt > 4) {
        shown.delete(path);
        throw error;
      }
      await wait(1000 * (attempt + 1));
    }
  }
}

function forget() {
  const [path, made] = shown.entries().next().value;
  shown.delete(path);
  made.then((url) => URL.revokeObjectURL(url), () => {});
}

export function search(query, { box, top, verify, expand, signal }) {
  const asked = new URLSearchParams({ top, verify, expand });
  if (box) asked.set("box", box.join(","));
  if (query.id) return ask(`/v1/pictures/${query.id}/search?${asked}`, { signal });
  return ask(`/v1/search?${asked}`, { method: "POST", body: query.file, headers: { "Content-Type": "application/octet-stream" }, signal });
}

/** Request the regions and scores of a picture of the collection at each threshold of the detector. */
export function thresholds(id, query, { box, signal }) {
  const asked = new URLSearchParams();
  if (box) asked.set("box", box.join(","));
  if (query.id) asked.set("query", query.id);
  const path = `/v1/pictures/${id}/thresholds?${asked}`;
  if (query.id) return ask(path, { signal });
  return ask(path, { method: "POST", body: query.file, headers: { "Content-Type": "application/octet-stream" }, signal });
}

export const add = (file) =>
  ask(`/v1/pictures?${new URLSearchParams({ name: file.name.slice(0, 200) })}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });

export const remove = (id) => ask(`/v1/pictures/${id}`, { method: "DELETE" });

/** Wait until a job is done or has failed, and return it. */
export async function ended(job, tell) {
  while (job.state === "queued" || job.state === "running") {
    tell(job);
    await wait(600);
    job = await ask(`/v1/jobs/${job.id}`);
  }
  return job;
}
