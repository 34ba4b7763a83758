"use strict";
// Similarity: the mark of a row moves to where its pictures are clicked, and their heat maps follow.
for (const section of document.querySelectorAll("[data-heat]")) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const colours = bytes(section.dataset.heat);

  for (const row of section.querySelectorAll(".similarity")) {
    const maps = [...row.querySelectorAll(".heat")].map((image) => {
      const rows = Number(image.dataset.rows), columns = Number(image.dataset.columns);
      const values = new Int8Array(bytes(image.dataset.directions).buffer);
      return { image, rows, columns, values, dimensions: values.length / (rows * columns) };
    });
    if (!maps.length) continue;
    const { rows, columns } = maps[0];
    const mark = row.querySelector(".mark");
    let x = parseFloat(mark.style.left) / 100, y = parseFloat(mark.style.top) / 100;

    const cosines = ({ rows, columns, values, dimensions }) => {
      const norm = (patch) => {
        let sum = 0;
        for (let d = 0; d < dimensions; d++) sum += values[patch * dimensions + d] ** 2;
        return Math.sqrt(sum) || 1;
      };
      const picked = Math.min(rows - 1, Math.floor(y * rows)) * columns + Math.min(columns - 1, Math.floor(x * columns));
      const length = norm(picked);
      return Float32Array.from({ length: rows * columns }, (_, patch) => {
        let sum = 0;
        for (let d = 0; d < dimensions; d++) sum += values[patch * dimensions + d] * values[picked * dimensions + d];
        return sum / (norm(patch) * length);
      });
    };

    const draw = () => {
      const results = maps.map(cosines);
      const low = Math.min(...results.map((result) => Math.min(...result)));
      results.forEach((result, index) => {
        const { image, rows, columns } = maps[index];
        const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
        const context = canvas.getContext("2d");
        const picture = context.createImageData(columns, rows);
        result.forEach((value, patch) => {
          const share = Math.min(1, Math.max(0, (value - low) / Math.max(1 - low, 1e-6)));
          const colour = 3 * Math.round(255 * share);
          picture.data.set([colours[colour], colours[colour + 1], colours[colour + 2], 255], 4 * patch);
        });
        context.putImageData(picture, 0, 0);
        image.src = canvas.toDataURL();
      });
      for (const other of row.querySelectorAll(".mark")) {
        other.style.left = `${100 * x}%`;
        other.style.top = `${100 * y}%`;
      }
      row.querySelector(".low").textContent = low.toFixed(2).replace("-", "−");
    };

    for (const frame of row.querySelectorAll(".pick")) {
      const follow = (event) => {
        const box = frame.getBoundingClientRect();
        x = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
        y = Math.min(0.9999, Math.max(0, (event.clientY - box.top) / box.height));
        draw();
      };
      frame.addEventListener("pointerdown", follow);
      frame.addEventListener("pointermove", (event) => event.buttons === 1 && follow(event));
      frame.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault();
        x = Math.min(0.9999, Math.max(0, x + step[0] / columns));
        y = Math.min(0.9999, Math.max(0, y + step[1] / rows));
        draw();
      });
    }
  }
}
