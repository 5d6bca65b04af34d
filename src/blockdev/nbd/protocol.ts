/**
 * Names and numbers of the NBD protocol, as in its specification (`doc/proto.md` of the NBD project). All integers on the
 * wire are big-endian. 64-bit quantities are bigint, except the cookie, which is compared but never computed with.
 */

// Handshake phase

export const NBDMAGIC = 0x4e42_444d_4147_4943n;
export const IHAVEOPT = 0x4948_4156_454f_5054n;
/** Magic of every option reply. */
export const NBD_REP_MAGIC = 0x0003_e889_0455_65a9n;

/** Handshake flags the server offers. */
export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_NO_ZEROES = 1 << 1;
/** Handshake flags the client answers with. */
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_C_NO_ZEROES = 1 << 1;

export const NBD_OPT_EXPORT_NAME = 1;
export const NBD_OPT_ABORT = 2;
export const NBD_OPT_LIST = 3;
export const NBD_OPT_PEEK_EXPORT = 4;
export const NBD_OPT_STARTTLS = 5;
export const NBD_OPT_INFO = 6;
export const NBD_OPT_GO = 7;
export const NBD_OPT_STRUCTURED_REPLY = 8;
export const NBD_OPT_LIST_META_CONTEXT = 9;
export const NBD_OPT_SET_META_CONTEXT = 10;
export const NBD_OPT_EXTENDED_HEADERS = 11;

export const NBD_REP_ACK = 1;
export const NBD_REP_SERVER = 2;
export const NBD_REP_INFO = 3;
export const NBD_REP_META_CONTEXT = 4;
/** Set in every error reply. */
export const NBD_REP_FLAG_ERROR = 0x8000_0000;
export const NBD_REP_ERR_UNSUP = 0x8000_0001;
export const NBD_REP_ERR_POLICY = 0x8000_0002;
export const NBD_REP_ERR_INVALID = 0x8000_0003;
export const NBD_REP_ERR_PLATFORM = 0x8000_0004;
export const NBD_REP_ERR_TLS_REQD = 0x8000_0005;
export const NBD_REP_ERR_UNKNOWN = 0x8000_0006;
export const NBD_REP_ERR_SHUTDOWN = 0x8000_0007;
export const NBD_REP_ERR_BLOCK_SIZE_REQD = 0x8000_0008;
export const NBD_REP_ERR_TOO_BIG = 0x8000_0009;
export const NBD_REP_ERR_EXT_HEADER_REQD = 0x8000_000a;

export const NBD_INFO_EXPORT = 0;
export const NBD_INFO_NAME = 1;
export const NBD_INFO_DESCRIPTION = 2;
export const NBD_INFO_BLOCK_SIZE = 3;

/** Strings (export names, context names, messages) are at most this long, bytes. */
export const NBD_MAX_STRING = 4096;

/** Option request: magic u64, option u32, length u32, data. */
export const OPTION_HEADER_SIZE = 16;
/** Option reply: magic u64, option u32, type u32, length u32, data. */
export const OPTION_REPLY_HEADER_SIZE = 20;
/** Greeting: NBDMAGIC u64, IHAVEOPT u64, handshake flags u16. */
export const GREETING_SIZE = 18;
/** Zeroes behind the answer to NBD_OPT_EXPORT_NAME, unless NBD_FLAG_NO_ZEROES was agreed. */
export const EXPORT_NAME_ZEROES = 124;

// Transmission flags of an export

export const NBD_FLAG_HAS_FLAGS = 1 << 0;
export const NBD_FLAG_READ_ONLY = 1 << 1;
export const NBD_FLAG_SEND_FLUSH = 1 << 2;
export const NBD_FLAG_SEND_FUA = 1 << 3;
export const NBD_FLAG_ROTATIONAL = 1 << 4;
export const NBD_FLAG_SEND_TRIM = 1 << 5;
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
export const NBD_FLAG_SEND_DF = 1 << 7;
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
export const NBD_FLAG_SEND_RESIZE = 1 << 9;
export const NBD_FLAG_SEND_CACHE = 1 << 10;
export const NBD_FLAG_SEND_FAST_ZERO = 1 << 11;
export const NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12;

// Transmission phase

export const NBD_REQUEST_MAGIC = 0x2560_9513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x6744_6698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e_33ef;

/** Request: magic u32, command flags u16, type u16, cookie u64, offset u64, length u32, data of a write. */
export const REQUEST_SIZE = 28;
/** Simple reply: magic u32, error u32, cookie u64, data of a read. */
export const SIMPLE_REPLY_SIZE = 16;
/** Structured reply chunk: magic u32, flags u16, type u16, cookie u64, length u32, payload. */
export const CHUNK_HEADER_SIZE = 20;

// With NBD_OPT_EXTENDED_HEADERS (branch `extension-ext-header` of the specification)

export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e4_1c71;
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a_278c;
/** Extended request: magic u32, command flags u16, type u16, cookie u64, offset u64, length u64, payload. */
export const EXTENDED_REQUEST_SIZE = 32;
/** Extended reply chunk: magic u32, flags u16, type u16, cookie u64, offset of the request u64, length u64, payload. */
export const EXTENDED_CHUNK_HEADER_SIZE = 32;

export const NBD_CMD_READ = 0;
export const NBD_CMD_WRITE = 1;
export const NBD_CMD_DISC = 2;
export const NBD_CMD_FLUSH = 3;
export const NBD_CMD_TRIM = 4;
export const NBD_CMD_CACHE = 5;
export const NBD_CMD_WRITE_ZEROES = 6;
export const NBD_CMD_BLOCK_STATUS = 7;
export const NBD_CMD_RESIZE = 8;

export const NBD_CMD_FLAG_FUA = 1 << 0;
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1;
export const NBD_CMD_FLAG_DF = 1 << 2;
export const NBD_CMD_FLAG_REQ_ONE = 1 << 3;
export const NBD_CMD_FLAG_FAST_ZERO = 1 << 4;
/** The length of an extended request is that of its payload. */
export const NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5;

export const NBD_REPLY_FLAG_DONE = 1 << 0;
export const NBD_REPLY_TYPE_NONE = 0;
export const NBD_REPLY_TYPE_OFFSET_DATA = 1;
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2;
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5;
export const NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6;
/** Set in the type of every error chunk. */
export const NBD_REPLY_TYPE_ERROR_BIT = 1 << 15;
export const NBD_REPLY_TYPE_ERROR = (1 << 15) + 1;
export const NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2;

export const NBD_EPERM = 1;
export const NBD_EIO = 5;
export const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
export const NBD_ENOSPC = 28;
export const NBD_EOVERFLOW = 75;
export const NBD_ENOTSUP = 95;
export const NBD_ESHUTDOWN = 108;

// Metadata contexts

export const BASE_ALLOCATION = 'base:allocation';
export const NBD_STATE_HOLE = 1 << 0;
export const NBD_STATE_ZERO = 1 << 1;

/** Ours: what was written since the device's mark (the start of its write log). Flag bit 0: written. */
export const WRITTEN_SINCE = 'changeover:written-since';
export const WRITTEN_SINCE_WRITTEN = 1 << 0;

/** Payload of one request that every server and client must be ready for, unless block sizes were agreed: 32 MiB. */
export const NBD_MAX_PAYLOAD = 32 * 1024 * 1024;
