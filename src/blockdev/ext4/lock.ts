/** Runs bodies one after the other in the order in which they came; a body that throws does not stop the next. */
export class Lock {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(body: () => Promise<T> | T): Promise<T> {
    const result = this.#tail.then(body);
    this.#tail = result.catch(() => {});
    return result;
  }
}
