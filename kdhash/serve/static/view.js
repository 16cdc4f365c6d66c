// What the page is built of: elements, strips of bits, cards.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with properties, attributes and children; children that are null or false are left out. */
export function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== false));
  return node;
}

function drawing(viewBox, className, paths) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", viewBox);
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  for (const [name, d] of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** A hexadecimal code as an array of 0 and 1. */
export function bitsOf(code) {
  return [...code].flatMap((digit) => [8, 4, 2, 1].map((bit) => (parseInt(digit, 16) & bit ? 1 : 0)));
}

/** All bits in lines of at most 32: small where the code agrees with the query's, tall where it differs. */
export function agreement(code, query) {
  const theirs = bitsOf(query);
  const [width, line] = [Math.min(Math.ceil(theirs.length / 2), 32), 10];
  let same = "";
  let different = "";
  bitsOf(code).forEach((bit, i) => {
    const [x, y] = [(i % width) * 4, Math.floor(i / width) * line];
    if (bit === theirs[i]) same += `M${x} ${y + 3}h3v3h-3z`;
    else different += `M${x} ${y}h3v9h-3z`;
  });
  const lines = Math.ceil(theirs.length / width);
  return drawing(`0 0 ${width * 4 - 1} ${lines * line - 1}`, "strip", [["same", same], ["different", different]]);
}

/** A code as a square of dark and light cells: the picture of an item that has no thumbnail. */
export function pattern(code) {
  const bits = bitsOf(code);
  const side = Math.ceil(Math.sqrt(bits.length));
  const cells = bits.map((bit, i) => (bit ? `M${i % side} ${Math.floor(i / side)}h1v1h-1z` : "")).join("");
  return drawing(`-1 -1 ${side + 2} ${side + 2}`, "pattern", [["cells", cells]]);
}

/** The thumbnail of an item; its code's pattern where it has none. */
export function thumbnail(item) {
  const box = element("div", { className: "thumb" });
  const image = element("img", { alt: "", loading: "lazy", decoding: "async", src: `pictures/${item.number}` });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 48));
  image.addEventListener("error", () => image.replaceWith(pattern(item.code)));
  box.append(image);
  return box;
}

const TITLES = ["caption", "captions", "text", "texts", "title", "label", "labels", "tags"];
const KEPT_QUIET = ["bytes", "mtime_ns", "sha256"];

/** What an item is called: its caption or label where it has one, its id otherwise. */
export function titleOf(item) {
  for (const name of TITLES) {
    const value = item.metadata[name];
    const first = name.endsWith("s") && name !== "tags" && Array.isArray(value) ? value[0] : value;
    if (Array.isArray(first) ? first.length : first !== null && first !== undefined && first !== "") {
      return Array.isArray(first) ? first.join(", ") : String(first);
    }
  }
  return item.id;
}

/** A result as a link to a search from it. `query` is the code searched with; null for a plain item. */
export function card(item, query, address) {
  const title = titleOf(item);
  const bits = item.code.length * 4;
  const facts = query && [
    element("p", { className: "distance" },
      element("strong", {}, String(item.distance)),
      element("span", {}, " apart"),
      element("span", { className: "matched", title: `${item.matched_bits} of ${bits} bits agree` }, `${item.matched_bits} agree`)),
    agreement(item.code, query),
  ];
  const said = query ? `${title}: ${item.distance} bits apart, ${item.matched_bits} of ${bits} bits match` : title;
  const link = element("a", { className: "card", href: address, attributes: { "aria-label": `${said}. Search from it` } },
    thumbnail(item),
    element("div", { className: "about" },
      facts,
      element("p", { className: "title", title: item.id }, title),
      title !== item.id && element("p", { className: "id soft", title: item.id }, item.id.split("/").at(-1))));
  link.dataset.number = item.number;
  return element("li", {}, link);
}

/** All metadata of an item that a person may want to read. */
export function metadata(item) {
  const rows = Object.entries(item.metadata)
    .filter(([name, value]) => value !== null && value !== "" && value !== item.id && !KEPT_QUIET.includes(name))
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, shown(value))));
  return element("dl", {}, element("div", {}, element("dt", {}, "id"), element("dd", {}, item.id)), rows);
}

function shown(value) {
  if (Array.isArray(value)) return value.map(shown).join(" · ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(4)));
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

/** Milliseconds with as many digits as matter. */
export function milliseconds(value) {
  return `${value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

/** How long encoding and searching took, in words and as a bar. */
export function latency(times) {
  const bar = element("span", { className: "bar", attributes: { "aria-hidden": "true" } }, element("i", {}), element("b", {}));
  bar.firstChild.style.flexGrow = times.encode_ms;
  bar.lastChild.style.flexGrow = times.search_ms;
  const encoded = times.batch ? `encoded in ${milliseconds(times.encode_ms)}` : "nothing to encode";
  return element("p", { className: "latency" }, bar,
    element("span", { className: "encode" }, encoded),
    element("span", { className: "search" }, `searched in ${milliseconds(times.search_ms)}`));
}

/** Cards that stand for results while they are on their way. */
export function skeletons(count) {
  const one = () => element("li", {}, element("div", { className: "card skeleton" }, element("div", { className: "thumb" }), element("div", { className: "about" })));
  return element("ul", { className: "grid", attributes: { "aria-hidden": "true" } }, Array.from({ length: count }, one));
}
