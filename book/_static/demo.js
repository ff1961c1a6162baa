// The front page's forty poles: CartPole (Barto, Sutton and Anderson 1983) and the smallest evolution that balances it.
(() => {
  const figure = document.getElementById("rlbook-demo");
  const canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d");
  const output = figure.querySelector("output"), button = figure.querySelector("[data-do=run]");
  const COLUMNS = 10, ROWS = 4, SIZE = COLUMNS * ROWS, ELITE = 10, LIMIT = 500, NOISE = 0.2, ENOUGH = 400;
  let population, generation, step, running = false, paused = 0;

  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const start = () => Array.from({ length: 4 }, () => (Math.random() - 0.5) / 10);
  const born = (weights) => ({ weights, state: start(), steps: 0, alive: true });

  function advance(pole) {
    let [x, v, angle, spin] = pole.state;
    const force = pole.weights.reduce((sum, w, i) => sum + w * pole.state[i], 0) > 0 ? 10 : -10;
    const push = (force + 0.05 * spin * spin * Math.sin(angle)) / 1.1;
    const turn = (9.8 * Math.sin(angle) - Math.cos(angle) * push) / (0.5 * (4 / 3 - (0.1 * Math.cos(angle) ** 2) / 1.1));
    const move = push - (0.05 * turn * Math.cos(angle)) / 1.1;
    pole.state = [x + 0.02 * v, v + 0.02 * move, angle + 0.02 * spin, spin + 0.02 * turn];
    pole.steps += 1;
    pole.alive = Math.abs(pole.state[0]) < 2.4 && Math.abs(pole.state[2]) < Math.PI / 15;
  }

  function breed() {
    const best = [...population].sort((a, b) => b.steps - a.steps).slice(0, ELITE).map((pole) => pole.weights);
    population = population.map((_, i) => born(best[i % ELITE].map((w) => (i < ELITE ? w : w + NOISE * normal()))));
    generation += 1;
    step = 0;
  }

  function draw() {
    const w = canvas.width / COLUMNS, h = canvas.height / ROWS;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    population.forEach((pole, i) => {
      const left = (i % COLUMNS) * w, floor = (Math.floor(i / COLUMNS) + 1) * h - 0.16 * h;
      const x = left + w * (0.5 + (0.38 * pole.state[0]) / 2.4), length = 0.62 * h, shown = pole.state[2] * (pole.alive ? 1 : 3);
      pen.globalAlpha = pole.alive ? 1 : 0.4;
      pen.lineCap = "round";
      line("#767676", 1, left + 0.1 * w, floor, left + 0.9 * w, floor);
      line(pole.steps >= LIMIT ? "#009E73" : "#0072B2", 0.14 * h, x - 0.09 * w, floor, x + 0.09 * w, floor);
      line("#D55E00", 0.055 * h, x, floor, x + length * Math.sin(shown), floor - length * Math.cos(shown));
    });
    pen.globalAlpha = 1;
  }

  function line(colour, width, ...[x0, y0, x1, y1]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
  }

  function frame(now) {
    if (!running) return;
    if (now > paused) {
      for (let i = 0; i < 2 && step < LIMIT; i += 1, step += 1) population.forEach((pole) => pole.alive && advance(pole));
      const standing = population.filter((pole) => pole.alive).length;
      const mean = population.reduce((sum, pole) => sum + pole.steps, 0) / SIZE;
      output.textContent = `Generation ${generation} · ${standing} of ${SIZE} standing · mean ${mean.toFixed(0)} of ${LIMIT} steps`;
      draw();
      if (step >= LIMIT || !standing) {
        if (mean > ENOUGH) return stop(`Generation ${generation} balances for ${mean.toFixed(0)} of ${LIMIT} steps on average.`);
        breed();
        paused = now + 500;
      }
    }
    requestAnimationFrame(frame);
  }

  function stop(message) {
    running = false;
    button.textContent = "Evolve";
    if (message) output.textContent = message;
  }

  function reset() {
    stop("Forty random policies. Press Evolve.");
    population = Array.from({ length: SIZE }, () => born(Array.from({ length: 4 }, normal)));
    generation = 1;
    step = paused = 0;
    draw();
  }

  button.onclick = () => {
    if (running) return stop();
    if (step >= LIMIT) reset();
    running = true;
    button.textContent = "Pause";
    requestAnimationFrame(frame);
  };
  figure.querySelector("[data-do=reset]").onclick = reset;
  reset();
})();
