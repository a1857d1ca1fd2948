// The markdown of an answer as DOM nodes: text becomes text nodes, and nothing is ever parsed as HTML.
//
// 1. A small, common part of markdown: headings, paragraphs, lists, quotes, fenced code, tables, rules. What is not
//    understood is shown as it was written.
// 2. A line tells what it begins, with no need of a blank line before it. Where models write otherwise than CommonMark
//    asks (lists and fences that are indented too little or too much), it is what they mean that is shown.
// 3. Each block has the direction of its own text. A list's and a quote's marks stand at its side, so theirs is that of
//    what they begin with.
// 4. While an answer grows, only its last blocks change: `Answer` keeps the nodes of those that did not.

import { el } from "./dom.js";
import { inline } from "./inline.js";

export class Answer {
  #sources = [];

  constructor(node) {
    this.node = node;
  }

  show(text) {
    const sources = blocks(text);
    let same = 0;
    while (same < sources.length && sources[same] === this.#sources[same]) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    for (const source of sources.slice(same)) this.node.append(block(source, 0));
    this.#sources = sources;
  }
}

const FENCE = /^\s*(`{3,}(?=[^`]*$)|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^\s*([-*+]|\d{1,3}[.)])(\s+)(.*)/; // a line that begins with a year is no item
const DELIMITER = /^(?=.*-)(?=.*\|)[\s|:-]+$/; // of a table, also while it comes
const DEEPEST = 8;
const AUTO = { dir: "auto" };

// Blocks as source texts.
function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  for (let at = 0; at < lines.length;) {
    const end = endOf(lines, at);
    if (lines[at].trim()) found.push(lines.slice(at, end).join("\n"));
    at = end;
  }
  return found;
}

function kindAt(lines, at) {
  const line = lines[at];
  if (!line.trim()) return "blank";
  if (FENCE.test(line)) return "fence";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (QUOTE.test(line)) return "quote";
  if (ITEM.test(line)) return "list";
  return line.includes("|") && DELIMITER.test(lines[at + 1] ?? "") ? "table" : "paragraph";
}

// Where the block ends that begins at a line.
function endOf(lines, from) {
  const kind = kindAt(lines, from);
  if (kind === "fence") return fenceEnd(lines, from, FENCE.exec(lines[from])[1], columns(lines[from])) + 1;
  if (kind === "list") return listAt(lines, from).end;
  const goesOn = {
    quote: (at) => QUOTE.test(lines[at]),
    table: (at) => lines[at].includes("|") && ["table", "paragraph"].includes(kindAt(lines, at)),
    paragraph: (at) => kindAt(lines, at) === "paragraph",
  }[kind];
  let end = from + 1;
  while (goesOn && end < lines.length && goesOn(end)) end += 1;
  return end;
}

// The line that closes a fence, or the end of what there is: a fence within a fenced example is indented more.
function fenceEnd(lines, from, mark, indent) {
  const closes = (line) =>
    line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "") && columns(line) <= indent + 3;
  let end = from + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  return end;
}

// The items of the list that begins at a line, each as its own lines, and where the list ends. What is indented by two
// columns more than an item belongs to it: models indent by less than CommonMark asks for.
function listAt(lines, from) {
  const kind = (marker) => marker[1].at(-1);
  const first = ITEM.exec(lines[from]);
  const items = [];
  let end = from;
  let indent = 0;
  let inner = 0; // the column at which the item's own text begins
  let open = false; // a paragraph, which an indented or a plain line continues
  for (let at = from; at < lines.length; at += 1) {
    const line = lines[at];
    const what = kindAt(lines, at);
    let column = columns(line);
    if (what === "blank") {
      items.at(-1).push("");
      open = false;
      continue;
    }
    if (what === "list" && (at === from || column < indent + 2)) {
      const marker = ITEM.exec(line);
      if (kind(marker) !== kind(first)) break;
      indent = column;
      column = inner = indent + marker[1].length + marker[2].length;
      items.push([marker[3]]);
    } else if (column >= indent + 2 || (open && what === "paragraph")) {
      items.at(-1).push(dedented(line, inner));
    } else break;
    end = at + 1;
    open = true;
    const fence = FENCE.exec(items.at(-1).at(-1));
    if (!fence) continue;
    // However little its lines are indented, up to its end.
    at = fenceEnd(lines, at, fence[1], column);
    items.at(-1).push(...lines.slice(end, at + 1).map((code) => dedented(code, Math.min(inner, column))));
    end = at + 1;
    open = false;
  }
  return { items, end };
}

// Of a line's indentation; a tab counts as four.
function columns(line) {
  return /^\s*/.exec(line)[0].replaceAll("\t", "    ").length;
}

function dedented(line, most) {
  let at = 0;
  for (let left = most; left > 0 && /\s/.test(line[at] ?? "-"); at += 1) left -= line[at] === "\t" ? 4 : 1;
  return line.slice(at);
}

function block(source, depth) {
  const lines = source.split("\n");
  const kind = depth > DEEPEST ? "paragraph" : kindAt(lines, 0);
  return RENDERERS[kind](lines, depth);
}

const RENDERERS = {
  fence(lines) {
    const [, mark, language] = FENCE.exec(lines[0]);
    const indent = columns(lines[0]);
    const code = lines.slice(1, fenceEnd(lines, 0, mark, indent)).map((line) => dedented(line, indent));
    return el("pre", { tabindex: 0, "data-language": language || null }, el("code", {}, code.join("\n")));
  },
  heading([line]) {
    const [, marks, words] = HEADING.exec(line);
    return el(
      `h${Math.min(marks.length + 2, 6)}`,
      AUTO,
      ...inline(
        words
          .trim()
          .replace(/(^| )#+$/, "")
          .trim(),
      ),
    );
  },
  rule: () => el("hr"),
  quote(lines, depth) {
    const words = lines.map((line) => line.replace(QUOTE, ""));
    const node = el("blockquote", AUTO, ...nested(words, depth));
    node.firstElementChild?.removeAttribute("dir"); // or it would not count for the quote's
    return node;
  },
  list(lines, depth) {
    const start = parseInt(ITEM.exec(lines[0])[1], 10);
    const items = listAt(lines, 0).items.map((item) => listItem(item, depth));
    return Number.isNaN(start) ? el("ul", AUTO, ...items) : el("ol", { ...AUTO, start: start === 1 ? null : start }, ...items);
  },
  table([head, delimiter, ...rows]) {
    const sides = cells(delimiter).map((rule) => rule.endsWith(":") && (rule.startsWith(":") ? "center" : "right"));
    const row = (line, tag) =>
      el("tr", {}, ...cells(line).map((cell, index) => el(tag, { ...AUTO, class: sides[index] }, ...inline(cell))));
    return el(
      "div",
      { class: "table", tabindex: 0 },
      el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...rows.map((line) => row(line, "td")))),
    );
  },
  paragraph: (lines) => el("p", AUTO, ...lines.flatMap(withBreak)),
};

function nested(lines, depth) {
  return blocks(lines.join("\n")).map((source) => block(source, depth + 1));
}

// A text at the beginning of an item stands in it without a paragraph around it.
function listItem(lines, depth) {
  const node = el("li", {}, ...nested(lines, depth));
  if (node.firstChild?.tagName === "P") node.firstChild.replaceWith(...node.firstChild.childNodes);
  return node;
}

// A line of a paragraph with what parts it from the next.
function withBreak(line, index, lines) {
  if (index === lines.length - 1) return inline(line.trim());
  return [...inline(line.replace(/\\$/, "").trim()), /( {2}|\\)$/.test(line) ? el("br") : "\n"];
}

// Of a row of a table. A bar in code or behind a backslash parts nothing.
function cells(row) {
  return row
    .trim()
    .replace(/^\|/, "")
    .replace(/(\\.|`[^`]*`)|\|/g, (bar, kept) => kept ?? "\n")
    .replace(/\n$/, "")
    .split("\n")
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}
