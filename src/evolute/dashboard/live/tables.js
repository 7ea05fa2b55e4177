"use strict";
// Tables and words. Everything that comes from the server goes in as text, never as markup.

const byId = (id) => document.getElementById(id);
const DASH = "–";

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function say(id, text) {
  const at = byId(id);
  if (at.textContent !== text) at.textContent = text;
}

const whole = (n) => (typeof n === "number" ? Math.round(n).toLocaleString("en") : DASH);
const rate = (n) => (n >= 100 || n === 0 ? whole(n) : n.toFixed(1));
const share = (part, all) => (all ? `${((100 * part) / all).toFixed(part && part < all / 100 ? 1 : 0)} %` : DASH);
const many = (n, one, more = `${one}s`) => `${whole(n)} ${n === 1 ? one : more}`;

function seconds(s) {
  if (typeof s !== "number") return DASH;
  if (s < 0.9995) return `${Math.round(1000 * s)} ms`;
  if (s < 119.5) return `${s < 9.95 ? s.toFixed(1) : Math.round(s)} s`;
  return s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

const size = (bytes) => (bytes < 2 ** 20 ? `${Math.round(bytes / 1024)} kB` : `${(bytes / 2 ** 20).toFixed(1)} MB`);

// Columns: [title, cell(row)] or [title, cell(row), "n" | "why"]. The first names the row.
const COLUMNS = {
  running: [
    ["Request", named],
    ["Tenant", (r) => r.tenant],
    ["Adapter", (r) => r.adapter ?? DASH],
    ["Here since", (r) => seconds(r.age_s), "n"],
    ["Prompt", (r) => whole(r.prompt_tokens), "n"],
    ["Cached", (r) => whole(r.cached_tokens), "n"],
    ["Made", (r) => whole(r.output_tokens), "n"],
    ["Own pages", (r) => whole(r.own_pages), "n"],
    ["Preempted", (r) => whole(r.preemptions), "n"],
  ],
  waiting: [
    ["Request", named],
    ["Tenant", (r) => r.tenant],
    ["Adapter", (r) => r.adapter ?? DASH],
    ["Waits", (r) => seconds(r.age_s), "n"],
    ["Prompt", (r) => whole(r.prompt_tokens), "n"],
    ["Would find cached", (r) => whole(r.cached_tokens), "n"],
    ["Passed over", (r) => whole(r.passed_over), "n"],
    ["Why others go first", (r) => r.why, "why"],
  ],
  "rate-table": [
    ["Ended", (r) => (r.ago ? `${r.ago} s ago` : "just now")],
    ["Made, a second", (r) => rate(r.made), "n"],
    ["Computed, a second", (r) => rate(r.computed), "n"],
    ["Found cached, a second", (r) => rate(r.cached), "n"],
    ["Requests ended", (r) => whole(r.finished), "n"],
  ],
  "memory-table": [
    ["Owner", (r) => r.owner],
    ["Pages", (r) => whole(r.pages), "n"],
    ["Of the pool", (r) => share(r.pages, r.all), "n"],
  ],
  "tree-table": [
    ["Branch", (r) => r.path],
    ["Under", (r) => r.under],
    ["Weights", (r) => r.space],
    ["Tokens", (r) => whole(r.num_tokens), "n"],
    ["Pages", (r) => whole(r.num_pages), "n"],
    ["With what is below", (r) => whole(r.pages_below), "n"],
    ["Requests that hold it", (r) => whole(r.users), "n"],
  ],
  "tenant-table": [
    ["Tenant", (r) => r.tenant],
    ["Running", (r) => whole(r.running), "n"],
    ["Waiting", (r) => whole(r.waiting), "n"],
    ["Own pages", (r) => whole(r.own), "n"],
    ["Weight", (r) => r.weight, "n"],
    ["Served", (r) => whole(r.service), "n"],
    ["Of all served", (r) => share(r.service, r.all), "n"],
    ["Ahead of the least served", (r) => whole(r.lag), "n"],
  ],
  "adapter-table": [
    ["Adapter", (r) => r.name],
    ["Version", (r) => r.version, "n"],
    ["Where", (r) => (r.is_paged ? (r.is_resident ? "resident" : "host memory") : "memory of its own")],
    ["Running with it", (r) => whole(r.users), "n"],
    ["Rank", (r) => whole(r.rank), "n"],
    ["Pages", (r) => (r.is_paged ? whole(r.num_pages) : DASH), "n"],
    ["Size", (r) => size(r.num_bytes), "n"],
    ["Fingerprint", (r) => r.fingerprint],
  ],
  "recent-table": [
    ["Request", named],
    ["Tenant", (r) => r.tenant],
    ["Ended", (r) => `${seconds(Math.max(r.ended_ago_s, 0))} ago`, "n"],
    ["Waited", (r) => seconds(r.waited_s), "n"],
    ["Why it waited", (r) => r.waited_for || (r.waited_s === null ? "never admitted" : "nothing in its way"), "why"],
    ["First token", (r) => seconds(r.first_token_s), "n"],
    ["Total", (r) => seconds(r.total_s), "n"],
    ["Prompt", (r) => whole(r.prompt_tokens), "n"],
    ["Cached", (r) => whole(r.cached_tokens), "n"],
    ["Made", (r) => whole(r.output_tokens), "n"],
    ["Adapter", (r) => r.adapter ?? DASH],
    ["End", (r) => r.finish_reason],
  ],
};

function named(row) {
  const id = row.request_id.length > 28 ? `${row.request_id.slice(0, 27)}…` : row.request_id;
  return row.index ? `${id} #${row.index}` : id;
}

const drawn = {}; // table -> its cells as text: what did not change is left alone

function fill(id, rows, none) {
  const columns = COLUMNS[id];
  const cells = rows.map((row) => columns.map(([, cell]) => String(cell(row))));
  const text = JSON.stringify([cells, none]);
  if (drawn[id] === text) return;
  drawn[id] = text;
  const table = byId(id);
  if (!table.tHead) {
    const top = table.createTHead().insertRow();
    for (const [title, , kind] of columns) top.append(element("th", title, { scope: "col", class: kind ?? "" }));
    table.createTBody();
  }
  const body = table.tBodies[0];
  const shown = cells.length ? cells : [[none]];
  shown.forEach((line, at) => {
    const row = body.rows[at];
    if (row?.cells.length === line.length && cells.length) change(row, line);
    else if (row) row.replaceWith(line_of(line, columns));
    else body.append(line_of(line, columns));
  });
  while (body.rows.length > shown.length) body.lastElementChild.remove();
}

// In place: whoever reads or has marked a cell keeps it.
function change(row, line) {
  line.forEach((cell, i) => {
    if (row.cells[i].textContent !== cell) row.cells[i].textContent = cell;
  });
}

function line_of(line, columns) {
  const row = element("tr");
  if (line.length < columns.length) {
    row.append(element("td", line[0], { colspan: columns.length, class: "none" }));
    return row;
  }
  line.forEach((cell, i) => {
    row.append(i ? element("td", cell, { class: columns[i][2] ?? "" }) : element("th", cell, { scope: "row" }));
  });
  return row;
}
