// Bytes, sizes and times as people read them.

const MOST_DUMPED_BYTES = 4_096;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const encode = (text) => encoder.encode(text);
export const decode = (bytes) => decoder.decode(bytes);

export function size(bytes) {
  if (bytes < 1_000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1_000).toFixed(bytes < 10_000 ? 2 : 1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

export function duration(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1_000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 100_000) return `${(milliseconds / 1_000).toFixed(2)} s`;
  return `${Math.round(milliseconds / 1_000)} s`;
}

export function age(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1_000;
  if (!(seconds >= 60)) return "now";
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

// Bytes as text in which nothing hides: what is no character is written as in a program.
export function visible(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const length = bytes[at] < 0x80 ? 1 : bytes[at] < 0xc0 ? 0 : bytes[at] < 0xe0 ? 2 : bytes[at] < 0xf0 ? 3 : 4;
    const character = length ? decode(bytes.subarray(at, at + length)) : "\ufffd";
    const shown =
      character !== "\ufffd" &&
      [...character].length === 1 &&
      !/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/.test(character);
    text += shown ? character : escaped(bytes[at]);
    at += shown ? length : 1;
  }
  return text;
}

function escaped(byte) {
  return { 9: "\\t", 13: "\\r" }[byte] ?? `\\x${byte.toString(16).padStart(2, "0")}`;
}

// One line of it, for a list: a dot for each of those.
export function glimpse(bytes) {
  return decode(bytes)
    .replaceAll("\n", "⏎")
    .replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, "·");
}

// The usual dump: offset, sixteen bytes, the same as ASCII.
export function hexDump(bytes) {
  const lines = [];
  for (let start = 0; start < Math.min(bytes.length, MOST_DUMPED_BYTES); start += 16) {
    const row = Array.from(bytes.subarray(start, start + 16));
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const ascii = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${start.toString(16).padStart(4, "0")}  ${hex.padEnd(47)}  ${ascii}`);
  }
  if (bytes.length > MOST_DUMPED_BYTES) lines.push(`… ${bytes.length - MOST_DUMPED_BYTES} bytes more`);
  return lines.join("\n");
}

export function hexLine(bytes, count) {
  return Array.from(bytes.subarray(0, count), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}
