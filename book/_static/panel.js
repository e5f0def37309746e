"use strict";
// Panels and films of the notebooks, without a kernel. What every setting leads to was computed when the site was built: each
// place that holds a panel is followed by its data, in which pictures and texts are lists of the pieces that they share.
(() => {
  const element = (tag, attributes = {}, ...inner) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...inner);
    return made;
  };
  const picture = () => Object.assign(element("img"), { decoding: "sync" });
  const show = (image, svg, alt) => {
    image.src = "data:image/svg+xml," + encodeURIComponent(svg + "</svg>");
    image.alt = alt;
  };
  const count = (number, one) => (number === 1 ? `1 ${one}` : `${number} ${one.replace(/y$/, "ie")}s`);

  class Panel {
    constructor(place, data) {
      this.data = data;
      this.tried = new Set(); // of settings, in the order in which they were tried
      this.controls = data.controls.map((control, index) => this.control(control, `${place.id}-${index}`));
      this.picture = picture();
      this.stage = element("div", { class: "course-stage" }, this.picture);
      const beside = this.controls.filter(({ row }, index) => !this.lay(row, data.controls[index].over));
      place.replaceChildren(...beside.map(({ row }) => row), this.stage);
      if (data.goal) {
        this.goal = element("p", { role: "status", class: "course-goal" });
        this.readout = element("p", { role: "status", class: "course-readout" });
        this.memory = picture();
        place.prepend(this.goal);
        place.append(this.readout, this.memory);
      }
      if (data.pace) place.prepend(this.player());
      if (data.note) place.append(element("p", { class: "course-note" }, data.note));
      this.answer();
    }

    // A slider or a list of choices, with its label and value
    control({ label, values, start, choice }, id) {
      const input = choice
        ? element("select", { id }, ...values.map((value, index) => element("option", { value: index }, value)))
        : element("input", { id, type: "range", min: 0, max: values.length - 1, step: 1 });
      const value = element("output", { for: id });
      input.value = start;
      input.addEventListener("input", () => this.answer());
      return { input, value, row: element("div", { class: "course-control" }, element("label", { for: id }, label), input, value) };
    }

    // Lays a slider over the axes that share its scale, whose picture tells its value; tells whether it did
    lay(row, over) {
      if (!over) return false;
      const [left, top, width, height] = over;
      row.classList.add("course-over");
      row.setAttribute("style", `left: ${left}%; top: ${top}%; width: ${width}%; height: ${height}%`);
      this.stage.append(row);
      return true;
    }

    player() {
      const { input } = this.controls[0];
      const button = element("button", { type: "button" }, "Play");
      const stop = () => {
        this.timer = clearInterval(this.timer);
        button.textContent = "Play";
      };
      const step = () => {
        input.value = Number(input.value) + 1;
        this.answer();
        if (input.value === input.max) stop();
      };
      button.addEventListener("click", () => {
        if (this.timer) return stop();
        input.value = input.value === input.max ? 0 : input.value;
        this.answer();
        this.timer = setInterval(step, this.data.pace);
        button.textContent = "Stop";
      });
      return button;
    }

    // A part: an element of a picture, or a text
    part(number) {
      return this.data.parts[number].map((piece) => this.data.pieces[piece]).join("");
    }

    drawing(numbers) {
      return numbers.map((number) => this.part(number)).join("");
    }

    answer() {
      const { controls, settings, numbers, head } = this.data;
      const chosen = this.controls.map(({ input }) => Number(input.value));
      const place = chosen.reduce((sum, value, index) => sum * controls[index].values.length + value, 0);
      const [drawn, , said, , , idle] = settings[numbers[place]];
      const before = this.now === undefined || this.now === numbers[place] ? [] : settings[this.now][1];
      const told = [];
      this.controls.forEach(({ input, value }, index) => {
        const { label, values, choice } = controls[index];
        input.disabled = idle.includes(index);
        if (!choice) input.setAttribute("aria-valuetext", (value.textContent = values[chosen[index]]));
        if (!input.disabled) told.push(`${label} ${values[chosen[index]]}`);
      });
      this.now = numbers[place];
      this.tried.add(this.now);
      const alt = this.goal ? `Panel at ${told.join(", ")}. ${this.part(said)}` : this.part(said);
      show(this.picture, head + this.drawing(drawn) + this.drawing(before), alt);
      if (this.goal) this.remember(this.part(said));
    }

    // The goal and how far it is reached, the readout, and a dot for each setting tried
    remember(said) {
      const { settings, goal, memory, axes } = this.data;
      const met = [...this.tried].findIndex((number) => settings[number][4]);
      const reached = met < 0 ? `not reached yet in ${count(this.tried.size, "try")}` : `reached in ${count(met + 1, "try")}`;
      const dots = [...this.tried].map((number) => settings[number][3]).filter(Boolean);
      const circle = ([x, y, colour], look) => `<circle cx="${x}" cy="${y}" ${look}="${this.part(colour)}"/>`;
      const ring = settings[this.now][3];
      const drawn = dots.map((dot) => circle(dot, 'r="3.5" fill-opacity="0.7" fill'));
      if (ring) drawn.push(circle(ring, 'r="6.5" fill="none" stroke-width="1.8" stroke'));
      const listed = dots.map((dot) => this.part(dot[3])).join("; ");
      this.goal.replaceChildren(element("b", {}, "Goal:"), ` ${goal}: ${reached}.`);
      this.readout.textContent = said;
      show(this.memory, memory + drawn.join(""), `${count(dots.length, "setting")} tried, ${axes}: ${listed}.`);
    }
  }

  const start = () => {
    for (const script of document.querySelectorAll("script.course-data")) {
      new Panel(script.previousElementSibling, JSON.parse(script.textContent));
    }
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
