/**
 * The one addon that a guest needs comes with its network device; after that none is let in. Node's permission model knows addons
 * or no addons, and the application's are to stay outside.
 *
 * Node loads an addon by `process.dlopen`, which `require` calls for a `.node` file, and by nothing else that an application
 * reaches: SQLite's extensions, OpenSSL's engines and `process.binding` are refused by the permission model all the same,
 * `--experimental-addon-modules` is not set, and threads, child processes and the inspector, which would have a `process` of their own or look
 * into this one, are not allowed. The ring addon itself stays out of the module cache, and can do nothing but rings.
 */
import Module from 'node:module';
import { GuestError } from './errors.ts';

/** Before anything of the guest's disks is run. Cannot be undone. */
export function lockAddons(): void {
  const refuse = (_module: unknown, path?: unknown): never => {
    throw new GuestError(
      'ERR_DLOPEN_DISABLED',
      `a partition's application cannot load the native addon ${path}`,
      {
        remedy: 'use a package without native parts, or a partition of kind namespace or vm',
      },
    );
  };
  fixed(process, 'dlopen', refuse);
  fixed((Module as unknown as { _extensions: object })._extensions, '.node', refuse);
}

function fixed(of: object, name: string, value: unknown): void {
  Object.defineProperty(of, name, { value, writable: false, configurable: false, enumerable: true });
}
