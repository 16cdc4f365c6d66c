// The search page: what is asked stands in the address, so that links, reload and the back button work.

import { address, ask, asked, question, Refusal, whenBusy } from "./api.js";
import { card, element, latency, metadata, pattern, skeletons, thumbnail, titleOf } from "./view.js";

const $ = (id) => document.getElementById(id);
let info = null;
let uploaded = null; // {url, name, code} of the picture that was sent last: the address knows its code only

/** What the sliders and the filter box say. */
function options() {
  const radius = Number($("radius").value);
  return {
    k: Number($("k").value),
    radius: radius < info.bits ? radius : null,
    where: $("where").value.trim(),
    bits: Number($("duplicates-radius").value),
  };
}

function busy(is) {
  $("progress").hidden = !is;
  $("results").setAttribute("aria-busy", is);
  if (is && !$("list").firstChild) $("list").replaceChildren(skeletons(12));
}

function complain(message) {
  const filter = message.startsWith("where: ");
  $("where-error").hidden = !filter;
  $("where").setAttribute("aria-invalid", filter);
  if (filter) unfold(true);
  $("error").hidden = filter;
  $(filter ? "where-error" : "error").textContent = filter ? message.replace(/^where: (filter, )?(.)/, (_, __, first) => first.toUpperCase()) : message;
  if ($("list").querySelector(".skeleton")) $("list").replaceChildren();
}

function content() {
  for (const id of ["error", "where-error"]) $(id).hidden = true;
  $("where").removeAttribute("aria-invalid");
}

/** Carries out `work`, and shows why where it is refused. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refusal)) console.error(error);
    complain(error instanceof Refusal ? error.message : "Something went wrong on this page; reload it.");
  }
}

/** Asks for what the address says, and shows it. */
const show = () => attempt(async () => {
  const wish = asked();
  adopt(wish);
  if (wish.view === "duplicates") return showDuplicates(await ask(`duplicates?radius=${wish.bits}`), wish);
  if (wish.number === null && wish.code === null && wish.text === null) return showSample(await ask("sample?count=24"), wish);
  const found = await ask("search", question(wish));
  const item = wish.number === null ? null : await ask(`items/${wish.number}`);
  showFound(found, wish, item);
});

/** Goes to the address that asks for `wish`. */
function go(wish, { replace = false } = {}) {
  const full = { ...asked(), ...options(), ...wish };
  history[replace ? "replaceState" : "pushState"](null, "", address(full));
  return show();
}

/** Sets sliders, boxes and views to what is asked. */
function adopt(wish) {
  const duplicates = wish.view === "duplicates";
  $("where").value = wish.where;
  $("text").value = wish.text ?? "";
  $("k").value = wish.k;
  $("radius").value = wish.radius ?? info.bits;
  $("duplicates-radius").value = wish.bits;
  $("to-search").setAttribute("aria-current", duplicates ? "false" : "page");
  $("to-duplicates").setAttribute("aria-current", duplicates ? "page" : "false");
  document.body.classList.toggle("duplicates", duplicates);
  $("more").textContent = wish.where || wish.radius !== null ? "Filter and limits: on" : "Filter and limits";
  $("duplicates-field").hidden = !duplicates;
  sayValues();
}

/** On a phone the filter and the sliders are folded away. */
function unfold(is) {
  $("more").setAttribute("aria-expanded", is);
  $("options").classList.toggle("open", is);
}

function sayValues() {
  const { k, radius, bits } = options();
  $("k-value").textContent = k;
  $("radius-value").textContent = radius === null ? "any" : `≤ ${counted(radius, "bit")}`;
  $("duplicates-value").textContent = `${counted(bits, "bit")} apart`;
  for (const slider of document.querySelectorAll("input[type=range]")) {
    slider.style.setProperty("--share", (slider.value - slider.min) / (slider.max - slider.min));
  }
}

function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function grid(items, query, wish) {
  const link = (item) => address({ ...wish, view: null, code: null, text: null, number: String(item.number) });
  return element("ul", { className: "grid" }, items.map((item) => card(item, query, link(item))));
}

function showFound(found, wish, item) {
  content();
  const count = found.results.length;
  $("heading").textContent = count ? `${counted(count, "result")}` : "Nothing found";
  const within = wish.radius !== null && `within ${counted(wish.radius, "bit")}`;
  const passing = wish.where && "that passes the filter";
  const advice = [within && "allow more distance", passing && "loosen the filter"].filter(Boolean).join(", or ");
  $("note").textContent = count
    ? ["nearest first", within, passing && "filtered"].filter(Boolean).join(", ")
    : `No other item ${[within, passing].filter(Boolean).join(" ") || "is there"}. ${advice && `${advice[0].toUpperCase()}${advice.slice(1)}.`}`;
  $("others").hidden = true;
  $("query").hidden = false;
  $("query").replaceChildren(...searchedFor(found, wish, item));
  $("list").replaceChildren(grid(found.results, found.query.code, wish));
  document.title = `${item ? titleOf(item) : (wish.text ?? "picture")} · kdhash`;
}

/** The bar above the results: what was searched for, its bits, and how long it took. */
function searchedFor(found, wish, item) {
  const code = found.query.code;
  const mine = uploaded?.code === code ? uploaded : null;
  const picture = item ? thumbnail(item) : element("div", { className: "thumb" },
    mine ? element("img", { src: mine.url, alt: "" }) : pattern(code));
  const name = item ? titleOf(item) : (wish.text ? `“${wish.text}”` : (mine?.name ?? `code ${code}`));
  const legend = element("p", { className: "legend soft" },
    element("span", { className: "same" }, "bits that agree"), element("span", { className: "different" }, "bits that differ"));
  return [picture,
    element("h2", {}, name),
    element("div", { className: "about" }, item && metadata(item), latency(found.latency), legend),
    element("button", { type: "button", className: "quiet clear", onclick: clear, attributes: { "aria-label": "Clear this search" } }, "✕")];
}

function showSample(sample, wish) {
  content();
  const can = info.model ? "Or start from one of these" : "Start from one of these";
  $("heading").textContent = sample.items.length ? can : "The index is empty";
  $("note").textContent = sample.items.length ? "" : "Add items with kdhash index add; they appear here by themselves.";
  $("others").hidden = sample.items.length === 0 || sample.items.length >= info.count;
  $("query").hidden = true;
  $("list").replaceChildren(grid(sample.items, null, wish));
  document.title = "kdhash";
}

function showDuplicates(answer, wish) {
  content();
  $("query").hidden = true;
  $("others").hidden = true;
  $("heading").textContent = answer.groups_total ? counted(answer.groups_total, "group") : "No near duplicates";
  const more = answer.groups.length < answer.groups_total ? `, the ${answer.groups.length} largest are shown` : "";
  $("note").textContent = answer.groups_total
    ? `${counted(answer.items_total, "item")} within ${counted(answer.radius, "bit")} of another${more}`
    : `No two items are within ${counted(answer.radius, "bit")} of each other. Allow more distance.`;
  $("list").replaceChildren(...answer.groups.map((group) => {
    const cut = group.items.length < group.count ? `, ${group.items.length} shown` : "";
    return element("section", { className: "group" },
      element("h2", {}, `${counted(group.count, "item")}${cut}`), grid(group.items, group.items[0].code, wish));
  }));
  document.title = "Near duplicates · kdhash";
}

/** Sends a picture; from then on its code is what is searched with. */
const upload = (file) => attempt(async () => {
  if (!info.model) throw new Refusal("This server has no model: search from a picture below.");
  if (file.size > info.limits.upload_bytes) {
    throw new Refusal(`${file.name} is larger than ${Math.floor(info.limits.upload_bytes / 2 ** 20)} MiB; choose a smaller picture.`);
  }
  const wish = { ...asked(), ...options(), view: null, number: null, text: null };
  const form = new FormData();
  form.append("picture", file);
  for (const [name, value] of Object.entries({ k: wish.k, radius: wish.radius, where: wish.where })) {
    if (value !== null && value !== "") form.append(name, value);
  }
  const found = await ask("search", { method: "POST", body: form });
  if (uploaded) URL.revokeObjectURL(uploaded.url);
  uploaded = { url: URL.createObjectURL(file), name: file.name, code: found.query.code };
  wish.code = found.query.code;
  history.pushState(null, "", address(wish));
  adopt(wish);
  showFound(found, wish, null);
});

function clear() {
  go({ view: null, number: null, code: null, text: null });
  home().focus();
}

function home() {
  return info.model?.texts ? $("text") : $("where");
}

/** Moves the focus among the cards, as their places on the screen suggest. */
function move(key) {
  const cards = [...$("list").querySelectorAll("a.card")];
  const at = cards.indexOf(document.activeElement);
  if (at < 0) return cards[0]?.focus();
  const top = (node) => Math.round(node.getBoundingClientRect().top);
  const row = cards.filter((node) => top(node) === top(cards[at])).length;
  const column = cards.slice(0, at).filter((node) => top(node) === top(cards[at])).length;
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: Math.min(at + row, cards.length - 1), ArrowUp: at - row }[key];
  if (key === "ArrowUp" && next < 0) return home().focus();
  if (key === "ArrowUp") {
    // the row above may be shorter or longer, as in groups
    const above = cards.slice(0, at - column);
    const last = above.filter((node) => top(node) === top(above.at(-1)));
    return last[Math.min(column, last.length - 1)].focus();
  }
  cards[next]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !info) return;
  const typing = event.target.matches("input:not([type=file], [type=range]), textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    home().focus();
  } else if (event.key === "Escape") {
    if (typing && event.target.value) return;
    if (event.target.closest?.("a.card")) home().focus();
    else if (!$("query").hidden || asked().view) clear();
  } else if (event.key.startsWith("Arrow") && event.target.type !== "range") {
    if (typing && event.key !== "ArrowDown") return;
    event.preventDefault();
    move(event.key);
  }
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?'], a[href='./']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || !info) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show().then(() => scrollTo({ top: 0 }));
});

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file && info) upload(file);
});

let dragged = 0; // dragenter and dragleave come for every element on the way
const dragging = (change) => document.body.classList.toggle("dropping", (dragged = change) > 0);
document.addEventListener("dragenter", (event) => event.dataTransfer.types.includes("Files") && dragging(dragged + 1));
document.addEventListener("dragleave", () => dragging(Math.max(0, dragged - 1)));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(0);
  if (event.dataTransfer.files[0] && info) upload(event.dataTransfer.files[0]);
});

/** Searches again a moment after the last change of a slider. */
let later = null;
function soon() {
  sayValues();
  clearTimeout(later);
  later = setTimeout(() => {
    const { number, code, text, view } = asked();
    if (view || number !== null || code !== null || text !== null) go({}, { replace: true });
  }, 120);
}

function start() {
  $("facts").textContent = `${counted(info.count, "item")} · ${info.bits} bits`;
  $("radius").max = info.bits;
  $("k").max = Math.min(info.limits.k, 200);
  $("duplicates-radius").max = info.limits.duplicates_radius;
  $("picture").hidden = !info.model;
  $("text-field").hidden = !info.model?.texts;
  $("where").placeholder = info.filter_examples[0] ?? 'id = "a.jpg"';
  $("examples").replaceChildren(...info.filter_examples.map((example) =>
    element("button", { type: "button", onclick: () => { $("where").value = example; go({}); } }, example)));
  for (const id of ["k", "radius", "duplicates-radius"]) $(id).addEventListener("input", soon);
  $("where").addEventListener("change", () => go({}));
  $("file").addEventListener("change", () => { if ($("file").files[0]) upload($("file").files[0]); $("file").value = ""; });
  $("others").addEventListener("click", show);
  $("more").addEventListener("click", () => unfold($("more").getAttribute("aria-expanded") !== "true"));
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    go(text ? { view: null, number: null, code: null, text } : {});
  });
  addEventListener("popstate", show);
  return show();
}

whenBusy(busy);
attempt(async () => {
  info = await ask("info");
  await start();
});
