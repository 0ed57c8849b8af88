/* SPDX-License-Identifier: MIT */
/*
 * Stage 3: features -> hidden states.
 *
 * Each forward half is followed by its backward half. A pass with a tape applies dropout and keeps
 * what the backward half reads in the stages that it reaches; below them, and in prediction, nothing
 * is kept and activations are fused into the products.
 */
#include "net/encoder.h"

static const ser_tensor ABSENT = {0};

/* Layerdrop (Fan et al. 2020); blocks that are not trained run as in prediction. */
static bool dropped(const ser_pass *pass, int32_t block)
{
    const ser_training_batch *input = pass->run->input;
    return input != NULL && input->dropped_layers != NULL && input->dropped_layers[block] &&
           ser_pass_reaches(pass, ser_stage_block(pass->arch, block));
}

/* --- The learned mix of hidden states --- */

/* Both directions. */
static ser_layer_mix_args mix_args(const ser_pass *pass, int32_t index, ser_tensor x)
{
    return (ser_layer_mix_args){
        .x = x,
        .rows = ser_pass_frame_rows(pass),
        .w = pass->net->layer_mix,
        .index = index,
    };
}

/* Hidden state `index`, as transformers counts them: into the learned mix and the stages. */
static void note_hidden(ser_pass *pass, int32_t index, ser_tensor x, ser_tensor mix)
{
    if (pass->workspace->keep_stages) {
        pass->workspace->stages.hidden[index] = x;
    }
    if (pass->tape != NULL) {
        pass->tape->hidden[index] = x;
    }
    ser_layer_mix_args args = mix_args(pass, index, x);
    args.y = mix;
    if (pass->arch->layer_mix && pass->status == 0) {
        pass->status = ser_layer_mix_fwd(pass->queue, &args);
    }
}

/* dx (+)= softmax(w)[index] dmix, where there is a mix; gives dx, made if it was absent. `stage` is
 * the one that made the hidden state. */
static ser_tensor note_hidden_backward(ser_pass *pass, int32_t index, int32_t stage,
                                       ser_tensor dmix, ser_tensor dx)
{
    const bool wanted = ser_pass_reaches(pass, stage);
    if (!pass->arch->layer_mix || (!wanted && pass->net->layer_mix_gradient.rows == 0)) {
        return dx;
    }
    ser_layer_mix_args args = mix_args(pass, index, pass->tape->hidden[index]);
    args.dy = dmix;
    args.first = dx.rows == 0;
    if (wanted) {
        args.dx = args.first ? ser_pass_take(pass, dmix.rows, dmix.cols) : dx;
    }
    if (pass->net->layer_mix_gradient.rows > 0) {
        args.dots = pass->mix_dots;
        args.dw = pass->net->layer_mix_gradient;
    }
    if (pass->status == 0) {
        pass->status = ser_layer_mix_bwd(pass->queue, &args);
    }
    return wanted ? args.dx : dx;
}

/* --- Post-norm blocks: x = LN(x + ser_block_attention(x)); x = LN(x + ffn(x)) --- */

static ser_residual middle_residual(const ser_pass *pass, int32_t i, const ser_norm *norm)
{
    const bool drops = ser_pass_reaches(pass, ser_stage_block(pass->arch, i));
    return (ser_residual){.norm = norm,
                          .p = drops ? pass->tape->options->hidden_dropout : 0.0F,
                          .op = ser_dropout_of_block(i, SER_DROPOUT_ATTENTION_OUT)};
}

static ser_residual end_residual(const ser_pass *pass, int32_t i, const ser_norm *norm)
{
    ser_residual r = middle_residual(pass, i, norm);
    r.op = ser_dropout_of_block(i, SER_DROPOUT_FFN_OUT);
    return r;
}

/* The block's output; without a backward half it takes the place of its parts. */
static ser_tensor post_norm_block(ser_pass *pass, int32_t i, ser_tensor x)
{
    const ser_block *block = &pass->net->blocks[i];
    const int32_t stage = ser_stage_block(pass->arch, i);
    const bool trains = ser_pass_reaches(pass, stage);
    ser_tensor h = ser_block_attention(pass, i, x);
    ser_norm_tape *middle =
        trains ? ser_residual_tape(pass, stage, x.rows, &pass->tape->blocks[i].middle) : NULL;
    ser_tensor n = trains ? ser_pass_save(pass, stage, x.rows, x.cols) : h;
    ser_residual_forward(pass, middle_residual(pass, i, &block->attention_norm), x, h,
                         trains ? h : ABSENT, n, middle);
    ser_pass_give(pass, x);
    h = ser_block_feed_forward(pass, i, n);
    ser_norm_tape *end =
        trains ? ser_residual_tape(pass, stage, x.rows, &pass->tape->blocks[i].end) : NULL;
    const bool apart = ser_pass_reaches(pass, stage + 1) || ser_pass_keeps_hidden(pass);
    ser_tensor y = apart ? ser_pass_save_hidden(pass, stage + 1, x.rows, x.cols) : h;
    ser_residual_forward(pass, end_residual(pass, i, &block->final_norm), n, h, trains ? h : ABSENT,
                         y, end);
    if (apart) {
        ser_pass_give(pass, h);
    }
    ser_pass_give(pass, n);
    return y;
}

/*
 * The gradient of a block's output in two parts, to be added: the residual's and the one through what
 * came after it. The branch may still read the first, so only the second may be written; it is
 * absent at the top.
 */
typedef struct parts {
    ser_tensor residual, through;
} parts;

static ser_tensor *writable(parts *d)
{
    return d->through.rows > 0 ? &d->through : &d->residual;
}

static parts post_norm_block_backward(ser_pass *pass, int32_t i, parts dy)
{
    const ser_block *block = &pass->net->blocks[i];
    const ser_block_tape *tape = &pass->tape->blocks[i];
    const bool below = ser_pass_reaches(pass, ser_stage_block(pass->arch, i) - 1);
    const bool drops = end_residual(pass, i, NULL).p > 0.0F;
    ser_tensor dsum = *writable(&dy);
    ser_tensor dh = drops ? ser_pass_take(pass, dsum.rows, dsum.cols) : ABSENT;
    ser_residual_backward(
        pass, end_residual(pass, i, &block->final_norm), &tape->end,
        (ser_residual_gradients){.dy = dy.residual, .dy2 = dy.through, .dx = dsum, .dh = dh});
    if (dy.through.rows > 0) {
        ser_pass_hold(pass, dy.residual);
    }
    ser_tensor dn = ser_block_feed_forward_backward(pass, i, drops ? dh : dsum);
    ser_pass_hold(pass, dh);
    dh = drops ? ser_pass_take(pass, dn.rows, dn.cols) : ABSENT;
    ser_residual_backward(pass, middle_residual(pass, i, &block->attention_norm), &tape->middle,
                          (ser_residual_gradients){.dy = dsum, .dy2 = dn, .dx = dn, .dh = dh});
    ser_pass_hold(pass, dsum);
    ser_tensor dx = ser_block_attention_backward(pass, i, drops ? dh : dn, below);
    ser_pass_hold(pass, dh);
    if (!below) {
        ser_pass_hold(pass, dn);
        return (parts){ABSENT, ABSENT};
    }
    return (parts){dn, dx};
}

static ser_tensor post_norm_blocks(ser_pass *pass, ser_tensor x, ser_tensor mix)
{
    note_hidden(pass, 0, x, mix);
    for (int32_t i = 0; i < pass->arch->layers; i++) {
        if (!dropped(pass, i)) {
            x = post_norm_block(pass, i, x);
        }
        note_hidden(pass, i + 1, x, mix);
    }
    return x;
}

/* `dlast` is the gradient of the last hidden state, or absent where a mix hands it out. */
static ser_tensor post_norm_blocks_backward(ser_pass *pass, ser_tensor dlast, ser_tensor dmix)
{
    parts d = {dlast, ABSENT};
    for (int32_t i = pass->arch->layers - 1; i >= 0; i--) {
        const int32_t stage = ser_stage_block(pass->arch, i);
        *writable(&d) = note_hidden_backward(pass, i + 1, stage, dmix, *writable(&d));
        if (!dropped(pass, i) && ser_pass_reaches(pass, stage)) {
            d = post_norm_block_backward(pass, i, d);
        }
    }
    const int32_t start = ser_stage_position(pass->arch);
    *writable(&d) = note_hidden_backward(pass, 0, start, dmix, *writable(&d));
    if (d.through.rows == 0) {
        return d.residual;
    }
    ser_pass_add(pass, d.through, d.residual, ser_pass_frame_rows(pass));
    ser_pass_hold(pass, d.residual);
    return d.through;
}

/*
 * --- Pre-norm blocks: x = x + ser_block_attention(LN(x)); x = x + ffn(LN(x)); after the last block LN(x) ---
 *
 * Every sum is normed by what comes next while it is at hand, so `n` is always LN(x) for the next
 * step: the LayerNorm at the end of a block belongs to the next block that is not dropped.
 */

typedef struct next_norm {
    const ser_norm *norm;
    int32_t stage;
} next_norm;

static next_norm norm_after(const ser_pass *pass, int32_t block)
{
    const ser_net *net = pass->net;
    for (int32_t i = block + 1; i < pass->arch->layers; i++) {
        if (!dropped(pass, i)) {
            return (next_norm){&net->blocks[i].attention_norm, ser_stage_block(pass->arch, i)};
        }
    }
    return (next_norm){&net->encoder_norm, ser_stage_end(pass->arch)};
}

/* The residual stream between blocks: x, and n = LN(x) for what comes next. */
typedef struct stream {
    ser_tensor x, n;
} stream;

static stream pre_norm_block(ser_pass *pass, int32_t i, stream s)
{
    const ser_block *block = &pass->net->blocks[i];
    const int32_t stage = ser_stage_block(pass->arch, i);
    const bool trains = ser_pass_reaches(pass, stage);
    const next_norm next = norm_after(pass, i);
    ser_tensor h = ser_block_attention(pass, i, s.n);
    ser_norm_tape *middle =
        trains ? ser_residual_tape(pass, stage, h.rows, &pass->tape->blocks[i].middle) : NULL;
    ser_tensor n = trains ? ser_pass_save(pass, stage, h.rows, h.cols) : s.n;
    ser_residual_forward(pass, middle_residual(pass, i, &block->final_norm), s.x, h, h, n, middle);
    ser_pass_give(pass, s.x);
    ser_tensor y = ser_block_feed_forward(pass, i, n);
    ser_norm_tape *end =
        pass->tape != NULL ? ser_residual_tape(pass, next.stage, h.rows, &pass->tape->blocks[i].end)
                           : NULL;
    /* What the backward half reads must not be a temporary of a block that it does not reach. */
    const bool held = !trains && (end != NULL || ser_pass_keeps_hidden(pass));
    ser_tensor x = held ? ser_pass_save(pass, ser_stage_head(pass->arch), h.rows, h.cols) : y;
    const bool apart = end != NULL || ser_pass_keeps_hidden(pass);
    ser_tensor after = apart ? ser_pass_save_hidden(pass, next.stage, h.rows, h.cols) : n;
    ser_residual_forward(pass, end_residual(pass, i, next.norm), h, y, x, after, end);
    ser_pass_give(pass, h);
    if (held) {
        ser_pass_give(pass, y);
    }
    if (apart) {
        ser_pass_give(pass, n);
    }
    return (stream){x, after};
}

static ser_tensor pre_norm_blocks(ser_pass *pass, ser_tensor x, ser_tensor mix)
{
    const int32_t layers = pass->arch->layers;
    const next_norm next = norm_after(pass, -1);
    ser_norm_tape *tape =
        pass->tape != NULL ? ser_residual_tape(pass, next.stage, x.rows, &pass->tape->start) : NULL;
    stream s = {x, ser_pass_save_hidden(pass, next.stage, x.rows, x.cols)};
    ser_residual_forward(pass, (ser_residual){.norm = next.norm}, x, ABSENT, ABSENT, s.n, tape);
    note_hidden(pass, 0, layers > 0 ? s.x : s.n, mix);
    for (int32_t i = 0; i < layers; i++) {
        if (!dropped(pass, i)) {
            s = pre_norm_block(pass, i, s);
        }
        note_hidden(pass, i + 1, i + 1 == layers ? s.n : s.x, mix);
    }
    ser_pass_give(pass, s.x);
    return s.n;
}

/* From the gradients of the block's x and n to those of the stream before it. The branch may still
 * read the former. */
static stream pre_norm_block_backward(ser_pass *pass, int32_t i, stream d)
{
    const ser_block *block = &pass->net->blocks[i];
    const ser_block_tape *tape = &pass->tape->blocks[i];
    const bool reached = ser_pass_reaches(pass, ser_stage_block(pass->arch, i));
    const bool drops = end_residual(pass, i, NULL).p > 0.0F;
    ser_tensor dx = d.n;
    ser_tensor dh = drops && reached ? ser_pass_take(pass, dx.rows, dx.cols) : ABSENT;
    ser_residual_backward(
        pass, end_residual(pass, i, norm_after(pass, i).norm), &tape->end,
        (ser_residual_gradients){.dy = d.n, .dsum = d.x, .dx = reached ? dx : ABSENT, .dh = dh});
    ser_pass_hold(pass, d.x);
    if (!reached) {
        ser_pass_give(pass, d.n);
        return (stream){ABSENT, ABSENT};
    }
    ser_tensor dn = ser_block_feed_forward_backward(pass, i, drops ? dh : dx);
    ser_pass_hold(pass, dh);
    dh = drops ? ser_pass_take(pass, dx.rows, dx.cols) : ABSENT;
    ser_residual_backward(pass, middle_residual(pass, i, &block->final_norm), &tape->middle,
                          (ser_residual_gradients){.dy = dn, .dsum = dx, .dx = dn, .dh = dh});
    ser_pass_hold(pass, dx);
    dx = dn;
    dn = ser_block_attention_backward(pass, i, drops ? dh : dx, true);
    ser_pass_hold(pass, dh);
    return (stream){dx, dn};
}

static ser_tensor pre_norm_blocks_backward(ser_pass *pass, ser_tensor dlast, ser_tensor dmix)
{
    const int32_t layers = pass->arch->layers;
    stream d = {ABSENT, dlast};
    for (int32_t i = layers - 1; i >= 0; i--) {
        const bool last = i + 1 == layers;
        const int32_t stage = last ? ser_stage_end(pass->arch) : ser_stage_block(pass->arch, i);
        ser_tensor *noted = last ? &d.n : &d.x;
        if (pass->arch->layer_mix) {
            ser_pass_join(pass); /* d.x is written */
        }
        *noted = note_hidden_backward(pass, i + 1, stage, dmix, *noted);
        if (!dropped(pass, i) && ser_pass_reaches(pass, norm_after(pass, i).stage)) {
            d = pre_norm_block_backward(pass, i, d);
        }
    }
    ser_tensor *noted = layers > 0 ? &d.x : &d.n;
    const int32_t start = layers > 0 ? ser_stage_position(pass->arch) : ser_stage_end(pass->arch);
    if (pass->arch->layer_mix) {
        ser_pass_join(pass);
    }
    *noted = note_hidden_backward(pass, 0, start, dmix, *noted);
    const next_norm next = norm_after(pass, -1);
    const bool below = ser_pass_reaches(pass, ser_stage_position(pass->arch));
    if (ser_pass_reaches(pass, next.stage)) {
        ser_residual_backward(
            pass, (ser_residual){.norm = next.norm}, &pass->tape->start,
            (ser_residual_gradients){.dy = d.n, .dsum = d.x, .dx = below ? d.n : ABSENT});
    }
    ser_pass_hold(pass, d.x);
    return d.n;
}

/* --- The whole --- */

ser_tensor ser_transformer_forward(ser_pass *pass, ser_tensor features)
{
    ser_tensor x = ser_position_forward(pass, ser_projection_forward(pass, features));
    ser_tensor mix = ABSENT;
    if (pass->arch->layer_mix) {
        mix = ser_pass_save_as(pass, SER_F32, ser_stage_head(pass->arch), x.rows, x.cols);
    }
    x = pass->arch->encoder_norm == SER_ENCODER_POST_NORM ? post_norm_blocks(pass, x, mix)
                                                          : pre_norm_blocks(pass, x, mix);
    ser_pass_show(pass, &pass->workspace->stages.last, x);
    if (!pass->arch->layer_mix) {
        return x;
    }
    ser_pass_give(pass, x);
    return mix;
}

ser_tensor ser_transformer_backward(ser_pass *pass, ser_tensor dhidden)
{
    const bool mixes = pass->arch->layer_mix;
    ser_tensor dlast = mixes ? ABSENT : dhidden;
    ser_tensor dmix = mixes ? dhidden : ABSENT;
    if (mixes) {
        pass->mix_dots = ser_pass_take_as(pass, SER_F32, 1, (int64_t)pass->arch->layers + 1);
    }
    ser_tensor dx = pass->arch->encoder_norm == SER_ENCODER_POST_NORM
                        ? post_norm_blocks_backward(pass, dlast, dmix)
                        : pre_norm_blocks_backward(pass, dlast, dmix);
    if (mixes) {
        ser_pass_give(pass, dmix);
        ser_pass_give(pass, pass->mix_dots);
    }
    if (!ser_pass_reaches(pass, ser_stage_position(pass->arch))) {
        ser_pass_give(pass, dx);
        return ABSENT;
    }
    dx = ser_position_backward(pass, dx);
    return ser_pass_reaches(pass, ser_stage_projection(pass->arch))
               ? ser_projection_backward(pass, dx)
               : ABSENT;
}
