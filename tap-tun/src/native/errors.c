#include "errors.h"

#include <errno.h>
#include <string.h>

void misuse(napi_env env, const char *what) {
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", what);
}

napi_value throw_errno(napi_env env, const char *call, int err) {
  napi_value message, error, value;

  if (napi_create_string_utf8(env, strerror(err), NAPI_AUTO_LENGTH, &message) != napi_ok) return NULL;
  if (napi_create_error(env, NULL, message, &error) != napi_ok) return NULL;
  if (napi_create_int32(env, err, &value) == napi_ok) napi_set_named_property(env, error, "errno", value);
  if (napi_create_string_utf8(env, call, NAPI_AUTO_LENGTH, &value) == napi_ok)
    napi_set_named_property(env, error, "syscall", value);
  napi_throw(env, error);
  return NULL;
}

napi_value throw_failure(napi_env env, const struct tt_failure *failure) {
  return throw_errno(env, failure->call, failure->err);
}

bool is_fatal(int err) {
  return err == EBADFD || err == EBADF || err == ENODEV || err == EPIPE || err == ENOTCONN || err == ECONNRESET;
}
