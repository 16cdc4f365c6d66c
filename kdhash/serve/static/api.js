// How the page speaks with the server, and how a search stands in the address.

export const DEFAULT_K = 24;
let running = null; // AbortController of the request whose answer is awaited
let onBusy = () => {};

/** Has `show` called with true when an answer lets itself be waited for, and with false when it is there. */
export function whenBusy(show) {
  onBusy = show;
}

/** What the address asks for. */
export function asked() {
  const fields = new URLSearchParams(location.search);
  return {
    view: fields.get("view"),
    number: fields.get("number"),
    code: fields.get("code"),
    text: fields.get("text"),
    where: fields.get("where") ?? "",
    k: Number(fields.get("k") ?? DEFAULT_K),
    radius: fields.has("radius") ? Number(fields.get("radius")) : null,
    bits: Number(fields.get("bits") ?? 2),
  };
}

/** The address that asks for `wish`. */
export function address(wish) {
  const fields = new URLSearchParams();
  for (const name of ["view", "number", "code", "text", "where"]) if (wish[name]) fields.set(name, wish[name]);
  if (wish.k !== DEFAULT_K) fields.set("k", wish.k);
  if (wish.radius !== null) fields.set("radius", wish.radius);
  if (wish.view === "duplicates") fields.set("bits", wish.bits);
  return `?${fields}`;
}

/** The request that asks for `wish`. */
export function question(wish) {
  const fields = { k: wish.k };
  if (wish.radius !== null) fields.radius = wish.radius;
  if (wish.where) fields.where = wish.where;
  if (wish.number !== null) fields.number = Number(wish.number);
  else if (wish.code !== null) fields.code = wish.code;
  else fields.text = wish.text;
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(fields) };
}

/** What the server refuses, in its own words. */
export class Refusal extends Error {}

/** The JSON of an answer; a Refusal with the server's own words where it refuses. */
export async function ask(path, request = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  const waiting = setTimeout(() => onBusy(true), 150); // a fast answer needs no sign of waiting
  try {
    let answer = await fetch(path, { ...request, signal: mine.signal });
    for (let again = 0; answer.status === 503 && again < 60; again++) { // it takes longer, or others are first
      await new Promise((done) => setTimeout(done, 1000));
      answer = await fetch(path, { ...request, signal: mine.signal });
    }
    const body = await answer.json();
    if (!answer.ok) throw new Refusal(body.message);
    return body;
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refusal) throw error;
    throw new Refusal("The server does not answer. Is it still running?");
  } finally {
    clearTimeout(waiting);
    if (running === mine) onBusy(false);
  }
}
