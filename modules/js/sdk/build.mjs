// Makes a component of a filter in JavaScript: `node build.mjs SOURCE.js WIT-FOLDER WORLD TARGET.wasm`.
import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath, witPath, worldName, target, ...more] = process.argv.slice(2);
if (target === undefined || more.length > 0) {
  console.error('usage: node build.mjs SOURCE.js WIT-FOLDER WORLD TARGET.wasm');
  process.exit(2);
}
// Everything that would import WASI, of which a gateway grants nothing.
const disableFeatures = ['stdio', 'random', 'clocks', 'http', 'fetch-event'];
const { component, imports } = await componentize({ sourcePath, witPath, worldName, disableFeatures });
const foreign = imports.filter(([name]) => !name.startsWith('tidegate:module/'));
if (foreign.length > 0) {
  console.error(`${sourcePath} needs what no gateway gives: ${foreign.map(([name]) => name).join(', ')}`);
  process.exit(1);
}
await writeFile(target, component);
