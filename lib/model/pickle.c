/* SPDX-License-Identifier: MIT */
#include "model/pickle.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/pickle_machine.h"

enum { PROTOCOL = 2, FIRST_CAPACITY = 64 };

int ser_pickle_bad(const ser_pickle_machine *m, const char *format, ...)
{
    char fault[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(fault, sizeof fault, format, args);
    va_end(args);
    return ser_fail(SER_ERR_FORMAT, "%s: opcode 0x%02X at byte %zu: %s", m->name,
                    (unsigned)m->data[m->op_position], m->op_position, fault);
}

const char *ser_pickle_preview(const unsigned char *text, size_t length,
                               char buffer[SER_PICKLE_PREVIEW_SIZE])
{
    size_t n = 0;
    for (; n < length && n + 1 < SER_PICKLE_PREVIEW_SIZE; n++) {
        buffer[n] = text[n] > 0x20 && text[n] < 0x7F ? (char)text[n] : '?';
    }
    buffer[n] = '\0';
    return buffer;
}

int ser_pickle_reserve(ser_pickle_machine *m, void *block, size_t count, size_t *capacity,
                       size_t size)
{
    if (count < *capacity) {
        return 0;
    }
    if (count >= SER_PICKLE_MAX_VALUES) {
        return ser_fail(SER_ERR_CAPACITY, "%s: byte %zu: more than %d values of one kind", m->name,
                        m->op_position, SER_PICKLE_MAX_VALUES);
    }
    size_t bigger = count == 0 ? FIRST_CAPACITY : 2 * count;
    int status = ser_mem_grow(block, count, bigger, size);
    if (status == 0) {
        *capacity = bigger;
    }
    return status;
}

int ser_pickle_push(ser_pickle_machine *m, ser_pickle_value v)
{
    int status =
        ser_pickle_reserve(m, &m->stack, m->stack_count, &m->stack_capacity, sizeof m->stack[0]);
    if (status == 0) {
        m->stack[m->stack_count++] = v;
    }
    return status;
}

int ser_pickle_pop(ser_pickle_machine *m, size_t count, const ser_pickle_value **values)
{
    size_t floor = m->mark_count > 0 ? m->marks[m->mark_count - 1] : 0;
    if (m->stack_count - floor < count) {
        return ser_pickle_bad(m, "needs %zu values, the stack has %zu", count,
                              m->stack_count - floor);
    }
    m->stack_count -= count;
    *values = &m->stack[m->stack_count];
    return 0;
}

/* All values above the last mark, which goes. */
static int pop_mark(ser_pickle_machine *m, const ser_pickle_value **values, size_t *count)
{
    if (m->mark_count == 0) {
        return ser_pickle_bad(m, "there is no mark");
    }
    size_t mark = m->marks[--m->mark_count];
    *count = m->stack_count - mark;
    *values = &m->stack[mark];
    m->stack_count = mark;
    return 0;
}

static int take(ser_pickle_machine *m, size_t count, const unsigned char **bytes)
{
    if (m->size - m->position < count) {
        return ser_pickle_bad(m, "the pickle ends within it");
    }
    *bytes = &m->data[m->position];
    m->position += count;
    return 0;
}

static uint64_t little_endian(const unsigned char *bytes, size_t count)
{
    uint64_t result = 0;
    for (size_t i = count; i > 0; i--) {
        result = result << 8 | bytes[i - 1];
    }
    return result;
}

static int push_integer(ser_pickle_machine *m, size_t width, bool is_signed)
{
    const unsigned char *bytes = NULL;
    int status = take(m, width, &bytes);
    if (status != 0) {
        return status;
    }
    uint64_t bits = little_endian(bytes, width);
    if (is_signed && width > 0 && width < 8 && (bytes[width - 1] & 0x80U) != 0) {
        bits |= UINT64_MAX << (8 * width);
    }
    ser_pickle_value v = {.tag = SER_PICKLE_INT};
    memcpy(&v.integer, &bits, sizeof bits);
    return ser_pickle_push(m, v);
}

static int do_long(ser_pickle_machine *m)
{
    const unsigned char *width = NULL;
    int status = take(m, 1, &width);
    if (status == 0 && *width > 8) {
        return ser_pickle_bad(m, "an integer of %u bytes, limit 8", (unsigned)*width);
    }
    return status != 0 ? status : push_integer(m, *width, true);
}

static int do_float(ser_pickle_machine *m)
{
    const unsigned char *bytes = NULL;
    int status = take(m, 8, &bytes);
    return status != 0 ? status : ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_FLOAT});
}

static int do_text(ser_pickle_machine *m)
{
    const unsigned char *length = NULL;
    const unsigned char *text = NULL;
    int status = take(m, 4, &length);
    uint32_t count = status == 0 ? (uint32_t)little_endian(length, 4) : 0;
    if (status == 0) {
        status = take(m, count, &text);
    }
    return status != 0
               ? status
               : ser_pickle_push(
                     m, (ser_pickle_value){.tag = SER_PICKLE_TEXT, .count = count, .text = text});
}

static uint8_t depth_of(const ser_pickle_machine *m, const ser_pickle_value *v)
{
    return v->tag == SER_PICKLE_DICT || v->tag == SER_PICKLE_ORDERED_DICT ? m->dicts[v->index].depth
                                                                          : v->depth;
}

/* The depth of a container that holds `values`, and had `depth` before. */
static int deepen(const ser_pickle_machine *m, const ser_pickle_value *values, size_t count,
                  uint8_t *depth)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t below = depth_of(m, &values[i]);
        if (below >= SER_PICKLE_MAX_DEPTH) {
            return ser_fail(SER_ERR_CAPACITY,
                            "%s: byte %zu: containers within containers, more than %d deep",
                            m->name, m->op_position, SER_PICKLE_MAX_DEPTH);
        }
        *depth = *depth > below ? *depth : (uint8_t)(below + 1);
    }
    return 0;
}

static int push_tuple(ser_pickle_machine *m, const ser_pickle_value *values, size_t count)
{
    ser_pickle_value v = {
        .tag = SER_PICKLE_TUPLE, .depth = 1, .count = (uint32_t)count, .index = m->item_count};
    int status = deepen(m, values, count, &v.depth);
    for (size_t i = 0; i < count && status == 0; i++) {
        status =
            ser_pickle_reserve(m, &m->items, m->item_count, &m->item_capacity, sizeof m->items[0]);
        if (status == 0) {
            m->items[m->item_count++] = values[i];
        }
    }
    return status != 0 ? status : ser_pickle_push(m, v);
}

static int push_short_tuple(ser_pickle_machine *m, size_t count)
{
    const ser_pickle_value *values = NULL;
    int status = ser_pickle_pop(m, count, &values);
    return status != 0 ? status : push_tuple(m, values, count);
}

static int do_tuple(ser_pickle_machine *m)
{
    const ser_pickle_value *values = NULL;
    size_t count = 0;
    int status = pop_mark(m, &values, &count);
    return status != 0 ? status : push_tuple(m, values, count);
}

int ser_pickle_push_dict(ser_pickle_machine *m, enum ser_pickle_tag tag)
{
    int status =
        ser_pickle_reserve(m, &m->dicts, m->dict_count, &m->dict_capacity, sizeof m->dicts[0]);
    if (status != 0) {
        return status;
    }
    m->dicts[m->dict_count] = (ser_pickle_dict){.depth = 1};
    return ser_pickle_push(m, (ser_pickle_value){.tag = (uint8_t)tag, .index = m->dict_count++});
}

/* The container below popped values, which stays on the stack. */
static int container(ser_pickle_machine *m, bool dict_wanted, ser_pickle_value *v)
{
    const ser_pickle_value *top = NULL;
    int status = ser_pickle_pop(m, 1, &top);
    if (status != 0) {
        return status;
    }
    m->stack_count++;
    *v = *top;
    bool is_dict = v->tag == SER_PICKLE_DICT || v->tag == SER_PICKLE_ORDERED_DICT;
    if (dict_wanted ? !is_dict : v->tag != SER_PICKLE_LIST) {
        return ser_pickle_bad(m, "its container is no %s", dict_wanted ? "dict" : "list");
    }
    return 0;
}

static int add_pair(ser_pickle_machine *m, ser_pickle_dict *d, const ser_pickle_value *key_and_item)
{
    if (key_and_item[0].tag != SER_PICKLE_TEXT) {
        return ser_pickle_bad(m, "a key that is no text");
    }
    int status = deepen(m, key_and_item, 2, &d->depth);
    if (status == 0) {
        status =
            ser_pickle_reserve(m, &m->pairs, m->pair_count, &m->pair_capacity, sizeof m->pairs[0]);
    }
    if (status != 0) {
        return status;
    }
    m->pairs[m->pair_count] = (ser_pickle_pair){.key = key_and_item[0], .item = key_and_item[1]};
    if (d->count++ == 0) {
        d->first = m->pair_count;
    } else {
        m->pairs[d->last].next = m->pair_count;
    }
    d->last = m->pair_count++;
    return 0;
}

static int set_items(ser_pickle_machine *m, const ser_pickle_value *values, size_t count)
{
    ser_pickle_value target;
    int status = container(m, true, &target);
    if (status == 0 && count % 2 != 0) {
        return ser_pickle_bad(m, "%zu values are no pairs of key and value", count);
    }
    for (size_t i = 0; i < count && status == 0; i += 2) {
        status = add_pair(m, &m->dicts[target.index], &values[i]);
    }
    return status;
}

static int do_set_item(ser_pickle_machine *m)
{
    const ser_pickle_value *values = NULL;
    int status = ser_pickle_pop(m, 2, &values);
    return status != 0 ? status : set_items(m, values, 2);
}

static int do_set_items(ser_pickle_machine *m)
{
    const ser_pickle_value *values = NULL;
    size_t count = 0;
    int status = pop_mark(m, &values, &count);
    return status != 0 ? status : set_items(m, values, count);
}

/* No list matters to us; that there is one does. */
static int do_append(ser_pickle_machine *m)
{
    const ser_pickle_value *values = NULL;
    ser_pickle_value list;
    int status = ser_pickle_pop(m, 1, &values);
    return status != 0 ? status : container(m, false, &list);
}

static int do_appends(ser_pickle_machine *m)
{
    const ser_pickle_value *values = NULL;
    size_t count = 0;
    ser_pickle_value list;
    int status = pop_mark(m, &values, &count);
    return status != 0 ? status : container(m, false, &list);
}

static int do_get(ser_pickle_machine *m, size_t width)
{
    const unsigned char *bytes = NULL;
    int status = take(m, width, &bytes);
    uint64_t index = status == 0 ? little_endian(bytes, width) : 0;
    if (status == 0 && index >= m->memo_count) {
        return ser_pickle_bad(m, "nothing was stored as %llu", (unsigned long long)index);
    }
    return status != 0 ? status : ser_pickle_push(m, m->memo[index]);
}

/* Pickles number what they store 0, 1, 2 ...: the memo needs no room for what is not there. */
static int do_put(ser_pickle_machine *m, size_t width)
{
    const unsigned char *bytes = NULL;
    const ser_pickle_value *top = NULL;
    int status = take(m, width, &bytes);
    if (status == 0) {
        status = ser_pickle_pop(m, 1, &top);
    }
    if (status != 0) {
        return status;
    }
    m->stack_count++;
    uint64_t index = little_endian(bytes, width);
    if (index > m->memo_count) {
        return ser_pickle_bad(m, "stores as %llu where %zu is next", (unsigned long long)index,
                              m->memo_count);
    }
    if (index == m->memo_count) {
        status =
            ser_pickle_reserve(m, &m->memo, m->memo_count, &m->memo_capacity, sizeof m->memo[0]);
        if (status != 0) {
            return status;
        }
        m->memo_count++;
    }
    m->memo[index] = *top;
    return 0;
}

/* The attributes of an OrderedDict (_metadata of a state dict), which nothing here needs. */
static int do_build(ser_pickle_machine *m)
{
    const ser_pickle_value *state = NULL;
    ser_pickle_value target;
    int status = ser_pickle_pop(m, 1, &state);
    if (status == 0) {
        bool is_dict = state->tag == SER_PICKLE_DICT || state->tag == SER_PICKLE_ORDERED_DICT;
        status = container(m, true, &target);
        if (status == 0 && (target.tag != SER_PICKLE_ORDERED_DICT || !is_dict)) {
            return ser_pickle_bad(m, "only the attributes of an OrderedDict may be set");
        }
    }
    return status;
}

static int do_mark(ser_pickle_machine *m)
{
    if (m->mark_count == SER_PICKLE_MAX_DEPTH) {
        return ser_fail(SER_ERR_CAPACITY, "%s: byte %zu: more than %d open marks", m->name,
                        m->op_position, SER_PICKLE_MAX_DEPTH);
    }
    m->marks[m->mark_count++] = m->stack_count;
    return 0;
}

static int run_one(ser_pickle_machine *m)
{
    switch (m->data[m->position++]) {
    case '(': return do_mark(m);
    case '.': m->stopped = true; return 0;
    case 'c': return ser_pickle_op_global(m);
    case 'R': return ser_pickle_op_reduce(m);
    case 'b': return do_build(m);
    case 'Q': return ser_pickle_op_storage(m);
    case '}': return ser_pickle_push_dict(m, SER_PICKLE_DICT);
    case ']': return ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_LIST, .depth = 1});
    case ')': return push_tuple(m, NULL, 0);
    case 't': return do_tuple(m);
    case 0x85: return push_short_tuple(m, 1);
    case 0x86: return push_short_tuple(m, 2);
    case 0x87: return push_short_tuple(m, 3);
    case 'a': return do_append(m);
    case 'e': return do_appends(m);
    case 's': return do_set_item(m);
    case 'u': return do_set_items(m);
    case 'N': return ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_NONE});
    case 0x88: return ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_BOOL, .integer = 1});
    case 0x89: return ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_BOOL});
    case 'J': return push_integer(m, 4, true);
    case 'K': return push_integer(m, 1, false);
    case 'M': return push_integer(m, 2, false);
    case 0x8A: return do_long(m);
    case 'G': return do_float(m);
    case 'X': return do_text(m);
    case 'h': return do_get(m, 1);
    case 'j': return do_get(m, 4);
    case 'q': return do_put(m, 1);
    case 'r': return do_put(m, 4);
    default:
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: opcode 0x%02X at byte %zu is not allowed: only tensors are read",
                        m->name, (unsigned)m->data[m->op_position], m->op_position);
    }
}

static int run(ser_pickle_machine *m)
{
    if (m->size < 2 || m->data[0] != 0x80) {
        return ser_fail(SER_ERR_FORMAT, "%s: not a pickle: it does not begin with its protocol",
                        m->name);
    }
    if (m->data[1] != PROTOCOL) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: pickle protocol %u; %d is read", m->name,
                        (unsigned)m->data[1], PROTOCOL);
    }
    m->position = 2;
    while (!m->stopped) {
        if (m->position == m->size) {
            return ser_fail(SER_ERR_FORMAT, "%s: the pickle ends without its stop opcode", m->name);
        }
        m->op_position = m->position;
        int status = run_one(m);
        if (status != 0) {
            return status;
        }
    }
    if (m->position != m->size) {
        return ser_pickle_bad(m, "%zu bytes behind the end", m->size - m->position);
    }
    return m->stack_count == 1 && m->mark_count == 0
               ? 0
               : ser_pickle_bad(m, "%zu values and %zu marks are left, not one value",
                                m->stack_count, m->mark_count);
}

int ser_pickle_read(const char *name, const unsigned char *data, size_t size, ser_pickle *pickle)
{
    ser_pickle_machine m = {.name = name, .data = data, .size = size};
    *pickle = (ser_pickle){NULL, 0, NULL};
    /* Both exist from the start: an empty tuple points to its items as any other does. */
    int status = ser_pickle_reserve(&m, &m.stack, 0, &m.stack_capacity, sizeof m.stack[0]);
    if (status == 0) {
        status = ser_pickle_reserve(&m, &m.items, 0, &m.item_capacity, sizeof m.items[0]);
    }
    if (status == 0) {
        status = run(&m);
    }
    if (status == 0) {
        status = ser_pickle_take(&m, pickle);
    }
    if (status != 0) {
        ser_pickle_clear(pickle);
    }
    ser_mem_free(m.stack);
    ser_mem_free(m.memo);
    ser_mem_free(m.items);
    ser_mem_free(m.pairs);
    ser_mem_free(m.dicts);
    ser_mem_free(m.storages);
    ser_mem_free(m.tensors);
    return status;
}

void ser_pickle_clear(ser_pickle *pickle)
{
    ser_mem_free(pickle->list);
    ser_mem_free(pickle->names);
    *pickle = (ser_pickle){NULL, 0, NULL};
}
