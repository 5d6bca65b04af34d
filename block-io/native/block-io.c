/*
 * File calls that Node lacks, one function each. Nothing here throws for what the kernel answers: every call returns the
 * count (or offset) or, when it failed, the negative errno. Offsets and lengths are numbers up to 2^53.
 *
 *   seek(fd, offset, whence)                      whence 0: SEEK_DATA, 1: SEEK_HOLE            at once
 *   readNow(fd, buffer, start, length, offset)    preadv2  RWF_NOWAIT: -EAGAIN when not cached  at once
 *   writeNow(fd, buffer, start, length, offset)   pwritev2 RWF_NOWAIT                           at once
 *   allocate(fd, mode, offset, length)            fallocate                                     promise
 *   copyRange(from, fromOffset, to, toOffset, n)  copy_file_range                               promise
 *   clone(from, to)                               ioctl FICLONE                                 promise
 *   writeBack(fd, offset, length)                 sync_file_range: begins to write dirty pages  promise
 *   dropCached(fd, offset, length)                posix_fadvise DONTNEED: forgets clean pages   promise
 *   crc32(buffer, crc)                            CRC-32 of the bytes, continued from `crc`     at once
 */
#define _GNU_SOURCE
#include "crc32.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

static napi_value number(napi_env env, double value) {
  napi_value out;
  return napi_create_double(env, value, &out) == napi_ok ? out : NULL;
}

/* Reads `count` numeric arguments starting at `first`; throws and returns 0 when one is missing or no number. */
static int numbers(napi_env env, napi_value *argv, size_t argc, size_t first, size_t count, int64_t *out) {
  for (size_t i = 0; i < count; i++) {
    if (first + i >= argc || napi_get_value_int64(env, argv[first + i], &out[i]) != napi_ok) {
      napi_throw_type_error(env, "EINVAL", "block-io: an argument is missing or no number");
      return 0;
    }
  }
  return 1;
}

static napi_value seek_(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  size_t argc = 3;
  int64_t n[3];
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || !numbers(env, argv, argc, 0, 3, n)) return NULL;
  off_t at = lseek((int)n[0], (off_t)n[1], n[2] == 0 ? SEEK_DATA : SEEK_HOLE);
  return number(env, at < 0 ? -(double)errno : (double)at);
}

static napi_value transfer(napi_env env, napi_callback_info info, int write) {
  napi_value argv[5];
  size_t argc = 5, length;
  void *data;
  int64_t fd, n[3];
  bool is_buffer = false;
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < 5) return NULL;
  if (!numbers(env, argv, argc, 0, 1, &fd) || !numbers(env, argv, argc, 2, 3, n)) return NULL;
  if (napi_is_buffer(env, argv[1], &is_buffer) != napi_ok || !is_buffer ||
      napi_get_buffer_info(env, argv[1], &data, &length) != napi_ok || n[0] < 0 || n[1] < 0 ||
      (uint64_t)n[0] + (uint64_t)n[1] > length) {
    napi_throw_range_error(env, "EINVAL", "block-io: the range is not inside the buffer");
    return NULL;
  }
  struct iovec part = {.iov_base = (char *)data + n[0], .iov_len = (size_t)n[1]};
  ssize_t done = write ? pwritev2((int)fd, &part, 1, (off_t)n[2], RWF_NOWAIT)
                       : preadv2((int)fd, &part, 1, (off_t)n[2], RWF_NOWAIT);
  return number(env, done < 0 ? -(double)errno : (double)done);
}

static napi_value read_now(napi_env env, napi_callback_info info) { return transfer(env, info, 0); }
static napi_value write_now(napi_env env, napi_callback_info info) { return transfer(env, info, 1); }

enum kind { ALLOCATE, COPY_RANGE, CLONE, WRITE_BACK, DROP_CACHED };

/* A call that may wait: runs on libuv's thread pool. Owned by this addon from `start` until `finish`. */
struct job {
  enum kind kind;
  int64_t n[5];
  double result;
  napi_async_work work;
  napi_deferred deferred;
};

static void run(napi_env env, void *data) {
  (void)env;
  struct job *job = data;
  ssize_t done = -1;
  if (job->kind == ALLOCATE) {
    do done = fallocate((int)job->n[0], (int)job->n[1], (off_t)job->n[2], (off_t)job->n[3]);
    while (done < 0 && errno == EINTR);
  } else if (job->kind == COPY_RANGE) {
    off_t from = (off_t)job->n[1], to = (off_t)job->n[3];
    done = copy_file_range((int)job->n[0], &from, (int)job->n[2], &to, (size_t)job->n[4], 0);
  } else if (job->kind == WRITE_BACK) {
    done = sync_file_range((int)job->n[0], (off_t)job->n[1], (off_t)job->n[2], SYNC_FILE_RANGE_WRITE);
  } else if (job->kind == DROP_CACHED) {
    errno = posix_fadvise((int)job->n[0], (off_t)job->n[1], (off_t)job->n[2], POSIX_FADV_DONTNEED);
    done = errno == 0 ? 0 : -1;
  } else {
    done = ioctl((int)job->n[1], FICLONE, (int)job->n[0]);
  }
  job->result = done < 0 ? -(double)errno : (double)done;
}

static void finish(napi_env env, napi_status status, void *data) {
  struct job *job = data;
  napi_resolve_deferred(env, job->deferred, number(env, status == napi_ok ? job->result : -(double)ECANCELED));
  napi_delete_async_work(env, job->work);
  free(job);
}

static napi_value start(napi_env env, napi_callback_info info, enum kind kind, size_t count, const char *label) {
  napi_value argv[5], promise, name;
  size_t argc = 5;
  int64_t n[5] = {0};
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || !numbers(env, argv, argc, 0, count, n)) return NULL;
  struct job *job = calloc(1, sizeof *job);
  if (job == NULL) {
    napi_throw_error(env, "ENOMEM", "block-io: out of memory");
    return NULL;
  }
  job->kind = kind;
  for (size_t i = 0; i < 5; i++) job->n[i] = n[i];
  if (napi_create_promise(env, &job->deferred, &promise) != napi_ok ||
      napi_create_string_utf8(env, label, NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, run, finish, job, &job->work) != napi_ok ||
      napi_queue_async_work(env, job->work) != napi_ok) {
    free(job);
    napi_throw_error(env, "EIO", "block-io: the call could not be queued");
    return NULL;
  }
  return promise;
}

static napi_value allocate(napi_env env, napi_callback_info info) { return start(env, info, ALLOCATE, 4, "block-io:allocate"); }
static napi_value copy_range(napi_env env, napi_callback_info info) { return start(env, info, COPY_RANGE, 5, "block-io:copy"); }
static napi_value clone_(napi_env env, napi_callback_info info) { return start(env, info, CLONE, 2, "block-io:clone"); }

static napi_value write_back(napi_env env, napi_callback_info info) { return start(env, info, WRITE_BACK, 3, "block-io:write-back"); }
static napi_value drop_cached(napi_env env, napi_callback_info info) { return start(env, info, DROP_CACHED, 3, "block-io:drop-cached"); }

static napi_value crc32_(napi_env env, napi_callback_info info) {
  napi_value argv[2], out;
  size_t argc = 2, length;
  void *data;
  uint32_t crc;
  if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < 2) return NULL;
  if (napi_get_buffer_info(env, argv[0], &data, &length) != napi_ok || napi_get_value_uint32(env, argv[1], &crc) != napi_ok) {
    napi_throw_type_error(env, "EINVAL", "block-io: crc32 wants bytes and a number");
    return NULL;
  }
  return napi_create_uint32(env, crc32(crc, data, length), &out) == napi_ok ? out : NULL;
}

NAPI_MODULE_INIT() {
  crc32_prepare();
  const struct {
    const char *name;
    napi_callback call;
  } table[] = {{"seek", seek_},         {"readNow", read_now},     {"writeNow", write_now},
               {"allocate", allocate}, {"copyRange", copy_range}, {"clone", clone_},
               {"writeBack", write_back}, {"dropCached", drop_cached}, {"crc32", crc32_}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    napi_value function;
    if (napi_create_function(env, table[i].name, NAPI_AUTO_LENGTH, table[i].call, NULL, &function) != napi_ok ||
        napi_set_named_property(env, exports, table[i].name, function) != napi_ok)
      return NULL;
  }
  return exports;
}
