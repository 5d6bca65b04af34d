/*
 * Preloaded into the block process: the kernel does less than it was asked. Every SHORT_EVERY-th call that writes to a regular
 * file, or copies between two, ends after half of its bytes; one byte at least. The bytes it tells are written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int turns;

static int cut_short(int fd)
{
	static int every;
	struct stat st;

	if (every == 0) {
		const char *text = getenv("SHORT_EVERY");
		every = text ? atoi(text) : INT_MAX;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		return 0;
	return __atomic_add_fetch(&turns, 1, __ATOMIC_RELAXED) % every == 0;
}

static size_t half(size_t count)
{
	return count > 1 ? count / 2 : count;
}

#define NEXT(type, name) \
	static type next; \
	if (!next) \
		next = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*write_call)(int, const void *, size_t);
typedef ssize_t (*pwrite_call)(int, const void *, size_t, off_t);
typedef ssize_t (*pwritev_call)(int, const struct iovec *, int, off_t);
typedef ssize_t (*pwritev2_call)(int, const struct iovec *, int, off_t, int);
typedef ssize_t (*copy_call)(int, off_t *, int, off_t *, size_t, unsigned);

ssize_t write(int fd, const void *data, size_t count)
{
	NEXT(write_call, "write");
	return next(fd, data, cut_short(fd) ? half(count) : count);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off_t at)
{
	NEXT(pwrite_call, "pwrite64");
	return next(fd, data, cut_short(fd) ? half(count) : count, at);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t at)
{
	return pwrite64(fd, data, count, at);
}

/* Points `less` to the first half of the bytes of `parts`. */
static void halve(struct iovec *less, const struct iovec *parts, int count)
{
	size_t bytes = 0;
	int i;

	for (i = 0; i < count; i++)
		bytes += parts[i].iov_len;
	bytes = half(bytes);
	for (i = 0; i < count; i++) {
		less[i] = parts[i];
		if (less[i].iov_len > bytes)
			less[i].iov_len = bytes;
		bytes -= less[i].iov_len;
	}
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at)
{
	struct iovec less[IOV_MAX];

	NEXT(pwritev_call, "pwritev64");
	if (count > IOV_MAX || !cut_short(fd))
		return next(fd, parts, count, at);
	halve(less, parts, count);
	return next(fd, less, count, at);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags)
{
	struct iovec less[IOV_MAX];

	NEXT(pwritev2_call, "pwritev2");
	if (count > IOV_MAX || !cut_short(fd))
		return next(fd, parts, count, at, flags);
	halve(less, parts, count);
	return next(fd, less, count, at, flags);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
	return pwritev64(fd, parts, count, at);
}

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t count, unsigned flags)
{
	NEXT(copy_call, "copy_file_range");
	return next(in, from, out, to, cut_short(out) ? half(count) : count, flags);
}
