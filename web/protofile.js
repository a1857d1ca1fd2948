// chat.proto as the documentation reads it: services, messages and enums; methods, fields and values with their comments.
//
// It reads the part of the language that our file uses: no imports, options or oneofs.

export function parseProto(text) {
  const found = { services: [], messages: [], enums: {} };
  const stack = [];
  let comments = [];
  for (const line of text.split("\n")) {
    const comment = /^\s*\/\/ ?(.*)$/.exec(line);
    if (comment) {
      comments.push(comment[1]);
      continue;
    }
    const [code, aside = ""] = line.split(/\s*\/\/\s?/);
    const said = [...comments, aside].join(" ").trim();
    if (code.trim()) comments = [];
    else if (!line.trim()) comments = []; // a comment that stands alone speaks of the file
    const opening = /^\s*(service|message|enum)\s+(\w+)\s*\{(\s*\})?/.exec(code);
    if (opening) {
      const [, kind, name, closed] = opening;
      const thing = { kind, name, fields: [], methods: [], values: [] };
      if (kind === "service") found.services.push(thing);
      else if (kind === "message") found.messages.push(thing);
      else found.enums[[...stack.map((outer) => outer.name), name].join(".")] = thing;
      if (!closed) stack.push(thing);
      continue;
    }
    const top = stack.at(-1);
    const method = /^\s*rpc\s+(\w+)\s*\((stream\s+)?(\w+)\)\s*returns\s*\((stream\s+)?(\w+)\)/.exec(code);
    const field = /^\s*(?:(repeated|optional)\s+)?(map<[^>]+>|[\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;/.exec(code);
    const value = /^\s*(\w+)\s*=\s*(\d+)\s*;/.exec(code);
    if (method && top) {
      const [, name, streams, takes, answers, gives] = method;
      const plain = said.replace(/^\(k\)\s*/, "");
      top.methods.push({ name, takes, gives, streams: Boolean(streams), answers: Boolean(answers), said: plain });
    } else if (value && top?.kind === "enum") top.values.push({ name: value[1], number: Number(value[2]), said });
    else if (field && top?.kind === "message")
      top.fields.push({ label: field[1] ?? "", type: field[2], name: field[3], number: Number(field[4]), said });
    if (/\}/.test(code)) stack.pop();
  }
  return found;
}
