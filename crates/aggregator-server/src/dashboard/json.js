// JSON that stays as it was sent. `JSON.parse` would round 9007199254740993, and make Infinity of 1e400.

/** The members of an object, by name, each as the text it is written as. */
export function members(text) {
  const found = new Map();
  let at = skipSpace(text, 0);
  if (text[at] !== "{") throw new SyntaxError("not an object");
  at = skipSpace(text, at + 1);
  while (text[at] !== "}") {
    const nameEnd = endOfValue(text, at);
    const name = JSON.parse(text.slice(at, nameEnd));
    at = skipSpace(text, nameEnd);
    if (text[at] !== ":") throw new SyntaxError("no colon");
    at = skipSpace(text, at + 1);
    const end = endOfValue(text, at);
    found.set(name, text.slice(at, end));
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
    else if (text[at] !== "}") throw new SyntaxError("not closed");
  }
  return found;
}

/** Parses JSON. Whole numbers that would lose digits become their texts. */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => {
    if (typeof value === "number" && !Number.isSafeInteger(value) && Number.isInteger(value)) {
      return context?.source ?? String(value);
    }
    return value;
  });
}

/** The same JSON with line breaks, for people. No value is parsed: each stays as it was sent. */
export function indent(text) {
  let out = "", depth = 0;
  for (let at = 0; at < text.length;) {
    const c = text[at];
    if (c === '"') {
      const end = endOfString(text, at);
      out += text.slice(at, end);
      at = end;
      continue;
    }
    at += 1;
    if (c === "{" || c === "[") {
      const next = skipSpace(text, at);
      if (text[next] === "}" || text[next] === "]") {
        out += c + text[next];
        at = next + 1;
      } else {
        depth += 1;
        out += c + lineBreak(depth);
      }
    } else if (c === "}" || c === "]") {
      depth -= 1;
      out += lineBreak(depth) + c;
    } else if (c === ",") out += c + lineBreak(depth);
    else if (c === ":") out += ": ";
    else if (!isSpace(c)) out += c;
  }
  return out;
}

function lineBreak(depth) {
  return "\n" + "  ".repeat(Math.max(0, depth));
}

function isSpace(c) {
  return c === " " || c === "\n" || c === "\r" || c === "\t";
}

function skipSpace(text, at) {
  while (isSpace(text[at])) at += 1;
  return at;
}

function endOfString(text, at) {
  for (at += 1; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === '"') return at + 1;
  }
  throw new SyntaxError("a string without its end");
}

/** Where the value ends that begins at `at`. */
function endOfValue(text, at) {
  if (text[at] === '"') return endOfString(text, at);
  if (text[at] !== "{" && text[at] !== "[") {
    while (at < text.length && !",}]".includes(text[at]) && !isSpace(text[at])) at += 1;
    return at;
  }
  for (let depth = 0; at < text.length;) {
    const c = text[at];
    if (c === '"') {
      at = endOfString(text, at);
      continue;
    }
    at += 1;
    if (c === "{" || c === "[") depth += 1;
    if ((c === "}" || c === "]") && --depth === 0) return at;
  }
  throw new SyntaxError("a value without its end");
}
