/** Runs the demo and puts what it printed into README.md, between the markers. `node --import tsx tools/record-demo.ts` */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';

const BEGIN = '<!-- demo:begin -->';
const END = '<!-- demo:end -->';
const root = resolve(import.meta.dirname, '..');
const readme = join(root, 'README.md');

const demo = spawnSync(join(root, 'bin/changeover'), ['demo', ...process.argv.slice(2)], {
  encoding: 'utf8',
  env: { ...process.env, NO_COLOR: '1' },
});
process.stderr.write(demo.stderr);
process.stdout.write(demo.stdout);
if (demo.status !== 0) {
  console.error(`the demo ended with ${demo.status}: README.md is left as it is`);
  process.exit(1);
}
const text = readFileSync(readme, 'utf8');
const begin = text.indexOf(BEGIN);
const end = text.indexOf(END);
if (begin === -1 || end < begin) throw new Error(`${readme} lacks the markers ${BEGIN} and ${END}`);
const machine = `${cpus().length} processors (${cpus()[0]?.model ?? 'unknown'}), Node ${process.versions.node}, ${new Date().toISOString().slice(0, 10)}`;
const body = `${BEGIN}\n\`\`\`\n# ${machine}\n${demo.stderr.trim()}\n${demo.stdout.trimEnd()}\n\`\`\`\n`;
writeFileSync(readme, text.slice(0, begin) + body + text.slice(end));
