// Pictures as SVG. Each has its numbers in a table beside it.

const SVG = "http://www.w3.org/2000/svg";
const pictured = {}; // svg -> what it shows: what did not change is left alone

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(id, width, height, what, draw) {
  const svg = byId(id), text = JSON.stringify([width, what]);
  if (pictured[id] === text) return;
  pictured[id] = text;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...draw());
}

// The pixels that a picture has, so that its letters keep their size on every screen.
const widthOf = (id) => Math.max(240, Math.round(byId(id).getBoundingClientRect().width) || 600);

function titled(made, text) {
  made.append(shape("title", {}, text));
  return made;
}

// The first of `texts` that fits, about 6.2 pixels a letter.
function fitted(texts, x, y, width, kind) {
  const found = texts.find((text) => text.length * 6.2 + 8 <= width);
  return found ? [shape("text", { x: x + 4, y, class: kind }, found)] : [];
}

function roundTop(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((m) => m * unit).find((top) => top >= value);
}

// Means of `values`, `size` at a time.
function means(values, size) {
  const found = [];
  for (let i = 0; i + size <= values.length; i += size) {
    found.push(values.slice(i, i + size).reduce((a, b) => a + b, 0) / size);
  }
  return found;
}

function drawRate(id, values, colour) {
  const width = widthOf(id), height = 170, left = 46, right = 10, top = 10, bottom = 28;
  const points = means(values, 5), most = roundTop(Math.max(...points, 1));
  const x = (i) => left + ((i + 0.5) / points.length) * (width - left - right);
  const y = (v) => height - bottom - (v / most) * (height - top - bottom);
  picture(id, width, height, points, () => {
    const parts = [0, 0.5, 1].flatMap((part) => [
      shape("path", { class: "grid", d: `M${left} ${y(part * most)}H${width - right}` }),
      shape("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, whole(part * most)),
    ]);
    const minutes = values.length / 60;
    for (let minute = 0; minute <= minutes; minute += minute || width > 420 ? 1 : 2) {
      const at = left + (minute / minutes) * (width - left - right);
      const anchor = minute === minutes ? "end" : minute ? "middle" : "start";
      const label = minute === minutes ? "now" : `${minute - minutes} min`;
      parts.push(shape("text", { x: at, y: height - 8, "text-anchor": anchor }, label));
    }
    const line = points.map((v, i) => `${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("L");
    const area = `M${x(0)} ${y(0)}L${line}L${x(points.length - 1)} ${y(0)}Z`;
    parts.push(shape("path", { class: `band f${colour}`, d: area }));
    parts.push(shape("path", { class: `line s${colour}`, d: `M${line}` }));
    return parts;
  });
}

function stripes() {
  const pattern = shape("pattern", {
    id: "stripes", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  });
  pattern.append(shape("path", { class: "stripe", d: "M0 0V6" }));
  const made = shape("defs", {});
  made.append(pattern);
  return made;
}

function drawMemory(owners, all) {
  const width = widthOf("memory"), height = 56;
  picture("memory", width, height, owners, () => {
    let x = 1;
    return owners.filter((one) => one.pages).flatMap((one) => {
      const size = (one.pages / all) * (width - 2), at = x;
      x += size;
      const block = shape("rect", { class: one.kind, x: at, y: 6, width: size, height: 40 });
      return [
        titled(block, `${one.owner}: ${many(one.pages, "page")}`),
        shape("path", { class: "seam", d: `M${at.toFixed(1)} 6v40` }),
        ...fitted([one.owner, one.short], at, 30, size, one.on),
      ];
    });
  });
}

const ROW = 26, MAX_DEPTH = 12;

// Blocks of the tree, left to right: {x, width, depth} in pages, and what they show.
function layTree(tree, names) {
  const children = new Map([[-1, []]]);
  tree.branches.forEach((branch, i) => {
    children.set(i, []);
    children.get(branch.parent).push(i);
  });
  const widest = (a, b) => tree.branches[b].pages_below - tree.branches[a].pages_below;
  const blocks = [];
  const put = (i, x, depth) => {
    const branch = tree.branches[i];
    blocks.push({ branch, x, width: branch.pages_below, depth, kind: branch.users ? "held" : "idle" });
    let at = x;
    for (const child of children.get(i).sort(widest)) {
      if (depth < MAX_DEPTH) put(child, at, depth + 1);
      at += tree.branches[child].pages_below;
    }
    const left = x + branch.pages_below - branch.num_pages - at;
    if (left > 0 && depth < MAX_DEPTH) blocks.push({ x: at, width: left, depth: depth + 1, kind: "rest" });
  };
  let x = 0;
  tree.spaces.forEach((_, space) => {
    const roots = children.get(-1).filter((i) => tree.branches[i].space === space).sort(widest);
    const width = roots.reduce((sum, i) => sum + tree.branches[i].pages_below, 0);
    blocks.push({ x, width, depth: 0, kind: "space", name: names[space] });
    for (const i of roots) {
      put(i, x, 1);
      x += tree.branches[i].pages_below;
    }
  });
  if (x < tree.num_pages) blocks.push({ x, width: tree.num_pages - x, depth: 0, kind: "rest" });
  return blocks;
}

function drawTree(tree, names) {
  const blocks = layTree(tree, names), width = widthOf("tree");
  const height = ROW * (1 + Math.max(0, ...blocks.map((block) => block.depth))) + 4;
  picture("tree", width, height, [tree, names], () => {
    const scale = (width - 2) / Math.max(tree.num_pages, 1);
    const parts = [stripes()];
    for (const { x, width: pages, depth, kind, name, branch } of blocks) {
      const left = 1 + x * scale, size = pages * scale, top = 2 + depth * ROW;
      const block = shape("rect", { class: kind, x: left, y: top, width: Math.max(size, 0.5), height: ROW - 3 });
      const label = branch ? many(branch.num_tokens, "token") : name ?? "";
      const users = branch ? `, ${branch.users ? many(branch.users, "request holds it", "requests hold it") : "idle"}` : "";
      const told = kind === "rest" ? "smaller branches" : label + users;
      parts.push(titled(block, `${told}; ${many(pages, "page")}`));
      parts.push(...fitted(branch ? [label, whole(branch.num_tokens)] : [label], left, top + 16, size, kind === "held" ? "onto" : "label"));
    }
    return parts;
  });
}
