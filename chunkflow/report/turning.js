"use strict";
(() => {
  // Curves of the skeleton on a canvas. Points are x, y, z in steps of the longest side; nothing is loaded.
  const canvas = document.getElementById("turn");
  const pen = canvas && canvas.getContext("2d");
  if (!pen) return;
  const data = JSON.parse(document.getElementById("turn-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const points = new Uint16Array(bytes(data.points).buffer);
  const lengths = new Uint16Array(bytes(data.lengths).buffer);
  const colors = bytes(data.colors);
  const SHADES = 6, BEGIN = { yaw: 0.6, pitch: 0.45, zoom: 1 };
  let view = { ...BEGIN }, held = null, waiting = false;

  function project(x, y, z) {
    const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
    const a = x * cy + z * sy, b = z * cy - x * sy;
    return [a, y * cp - b * sp, y * sp + b * cp];
  }

  function draw() {
    waiting = false;
    const [w, h] = [canvas.width, canvas.height], [sx, sy, sz] = data.size;
    const radius = Math.hypot(sx, sy, sz) / 2, scale = (0.5 * Math.min(w, h) * view.zoom) / radius;
    const at = (x, y, z) => {
      const [a, b, c] = project(x - sx / 2, y - sy / 2, z - sz / 2);
      return [w / 2 + a * scale, h / 2 + b * scale, c / radius];
    };
    pen.fillStyle = "#111417";
    pen.fillRect(0, 0, w, h);
    pen.strokeStyle = "#56606a";
    pen.lineWidth = 1;
    pen.beginPath();
    for (let corner = 0; corner < 8; corner++)
      for (const bit of [1, 2, 4])
        if (!(corner & bit)) {
          const ends = [corner, corner | bit].map((c) => at(c & 1 ? sx : 0, c & 2 ? sy : 0, c & 4 ? sz : 0));
          pen.moveTo(ends[0][0], ends[0][1]);
          pen.lineTo(ends[1][0], ends[1][1]);
        }
    pen.stroke();
    const layers = Array.from({ length: SHADES }, () => []);
    for (let curve = 0, first = 0; curve < lengths.length; first += lengths[curve++]) {
      const path = [];
      let depth = 0;
      for (let p = first; p < first + lengths[curve]; p++) {
        const q = at(points[3 * p] / 65535, points[3 * p + 1] / 65535, points[3 * p + 2] / 65535);
        path.push(q);
        depth += q[2];
      }
      const near = (1 - depth / path.length) / 2;
      layers[Math.max(0, Math.min(SHADES - 1, Math.floor(near * SHADES)))].push([curve, path]);
    }
    pen.lineWidth = lengths.length > 3000 ? 1 : 2;
    pen.lineJoin = "round";
    layers.forEach((layer, k) => {
      const light = 0.4 + (0.6 * (k + 1)) / SHADES;
      for (const [curve, path] of layer) {
        const [r, g, b] = [0, 1, 2].map((i) => Math.round(colors[3 * curve + i] * light));
        pen.strokeStyle = `rgb(${r},${g},${b})`;
        pen.beginPath();
        path.forEach((q, i) => (i ? pen.lineTo(q[0], q[1]) : pen.moveTo(q[0], q[1])));
        pen.stroke();
      }
    });
  }

  function again() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }
  canvas.addEventListener("pointerdown", (e) => {
    held = [e.clientX, e.clientY];
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointerup", () => (held = null));
  canvas.addEventListener("pointermove", (e) => {
    if (!held) return;
    view.yaw += (e.clientX - held[0]) / 150;
    view.pitch = Math.max(-1.6, Math.min(1.6, view.pitch + (e.clientY - held[1]) / 150));
    held = [e.clientX, e.clientY];
    again();
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    view.zoom = Math.max(0.3, Math.min(20, view.zoom * Math.exp(-e.deltaY / 600)));
    again();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => {
    view = { ...BEGIN };
    again();
  });
  draw();
})();
