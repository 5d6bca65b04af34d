/** What the tests use of buffer-layout, which ships no types. */
declare module 'buffer-layout' {
  export interface Layout {
    readonly span: number;
    readonly property?: string;
  }
  export interface Structure extends Layout {
    readonly fields: readonly Layout[];
    offsetOf(property: string): number | undefined;
    decode(bytes: Uint8Array, offset?: number): Record<string, unknown>;
  }
  export function u8(property?: string): Layout;
  export function u16(property?: string): Layout;
  export function u16be(property?: string): Layout;
  export function u32(property?: string): Layout;
  export function u32be(property?: string): Layout;
  export function blob(length: number, property?: string): Layout;
  export function struct(fields: readonly Layout[]): Structure;
}
