// Makes elements. Text is always text: nothing here, or anywhere on the page, parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`) and children: nodes, texts, or nothing. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for a drawing. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Gives an element these children in place of those it has. What looks the same stays, and so does a selected row. */
export function show(element, ...children) {
  const next = h("div", {}, ...children);
  const before = [...element.childNodes];
  const same = before.length === next.childNodes.length && before.every((child, at) => child.isEqualNode(next.childNodes[at]));
  if (same) return;
  const rows = () => [...element.querySelectorAll("[data-row]")];
  const selected = rows().indexOf(document.activeElement);
  element.replaceChildren(...next.childNodes);
  if (selected >= 0) rows()[selected]?.focus({ preventScroll: true });
}

/** Sets a text, if it is another one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copies a text, and says so on the button. */
export async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Browsers allow it only on secure pages: then the text is selected, to be copied by hand.
    const area = h("textarea", { class: "copy", readonly: true });
    area.value = text;
    button.after(area);
    area.select();
    button.textContent = "Press Ctrl+C";
    area.addEventListener("blur", () => area.remove(), { once: true });
  }
  setTimeout(() => { button.textContent = before; }, 2000);
}
