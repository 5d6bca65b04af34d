import type { Tcb } from './tcb.ts';
import { NO_HANDLER, STATE } from './tcb.ts';

/** Tells the application what it is owed. What it throws is its own uncaught exception; the stack goes on. */
export function tell(tcb: Tcb): void {
  try {
    tellAll(tcb);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function tellAll(tcb: Tcb): void {
  if (tcb.owesAccept) {
    tcb.owesAccept = false;
    const { listener } = tcb;
    tcb.listener = undefined;
    // One that was reset in the same batch has never been.
    if (tcb.state !== STATE.CLOSED || tcb.error === undefined) listener?.accept(tcb);
  }
  if (tcb.owesConnected) {
    tcb.owesConnected = false;
    tcb.handler.connected();
  }
  if (tcb.owesUrgent) {
    tcb.owesUrgent = false;
    tcb.handler.urgent?.();
  }
  if (tcb.owesReadable && !tcb.frozen) {
    tcb.owesReadable = false;
    tcb.handler.readable();
  } else {
    tcb.owesReadable = false;
  }
  if (tcb.owesWritable) {
    tcb.owesWritable = false;
    tcb.handler.writable();
  }
  if (tcb.owesClosed) {
    tcb.owesClosed = false;
    const { handler } = tcb;
    tcb.handler = NO_HANDLER;
    handler.closed(tcb.error);
  }
}
