/* How failures reach JavaScript; the TypeScript side makes TapErrors of them. */
#ifndef TAP_TUN_ERRORS_H
#define TAP_TUN_ERRORS_H

#define NAPI_VERSION 8
#include "tap-tun.h"

#include <node_api.h>
#include <stdbool.h>

/* A TypeError about an argument, unless an exception is pending already. */
void misuse(napi_env env, const char *what);
/* Throws an Error with `errno` and `syscall`. Returns NULL. */
napi_value throw_errno(napi_env env, const char *call, int err);
napi_value throw_failure(napi_env env, const struct tt_failure *failure);
/* The device is gone or the descriptor broken: nothing more will come. */
bool is_fatal(int err);

/* In functions that return a napi_value. */
#define OK(call)             \
  do {                       \
    if ((call) != napi_ok) { \
      misuse(env, #call);    \
      return NULL;           \
    }                        \
  } while (0)

#endif
