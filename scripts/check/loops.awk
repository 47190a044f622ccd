# The innermost loops of a kernel set's disassembly: objdump -d --no-show-raw-insn, of x86-64, AArch64 or RISC-V.
# SPDX-License-Identifier: MIT
#
# Prints for each the line "loop FUNCTION ADDRESS INSTRUCTIONS FMAS STACK HOT STRAIGHT", STACK being how many of its
# instructions reach into the stack, HOT "hot" or "other", STRAIGHT "straight" or "branches"; then its instructions,
# "  ADDRESS<tab>INSTRUCTION", with "!" in the first column where it is the stack.
#
# A loop is a jump back over code that leads from its target to it. Innermost are those without another loop between the
# two, but for loops that touch no vector, such as one that fetches ahead. Hot is, in functions whose name holds gemm, a
# loop with at least so many fmas (-v tile=…); in the others, but for those below, every loop that loads vectors.

BEGIN {
    # fold keeps its factors in an array; logits, tanh and log hold more constants than there are registers; sum_visible
    # is for rows with a NaN; widen, narrow, the packing of stored rows and what rounds to bfloat16 end in a tail that
    # is copied, row by row. gemm_nt_1 … gemm_nt_12 turn a square of B between their fmas; a form with a seventh of the
    # stack's instructions ran no faster.
    cold = "fold logits sum_visible tanh_array log_array widen narrow pack_stored stored_edge"
    cold = cold " rows_bf16 keys_bf16 values_bf16 rows_bf16_dots keys_bf16_dots values_bf16_dots"
    for (i = split(cold, names, " "); i > 0; i--) is_cold[names[i]] = 1
}

# Marks in body the instructions that can be reached from head and lead to jump, between the two; returns how many.
function walk(head, jump,    i, before, reached) {
    split("", reached)
    split("", body)
    reached[head] = 1
    do { # a jump back that is no loop makes another pass necessary
        before = length_of(reached)
        for (i = head; i < jump; i++) {
            if (!(i in reached)) continue
            if (!(i in leaves)) reached[i + 1] = 1
            if ((i in target) && target[i] > head && target[i] <= jump) reached[target[i]] = 1
        }
    } while (length_of(reached) > before)
    if (!(jump in reached)) return 0
    body[jump] = 1
    do {
        before = length_of(body)
        for (i = jump - 1; i >= head; i--)
            if ((i in reached) && (leads(i) || ((i in target) && (target[i] in body)))) body[i] = 1
    } while (length_of(body) > before)
    return before
}

function leads(i) {
    return !(i in leaves) && ((i + 1) in body)
}

function length_of(array,    i, count) {
    for (i in array) count++
    return count + 0
}

function end_function(    i, j, head, jump, loops, size, inner, fma, loads, work, bad, own, hot, jumps) {
    # with an index it is an array, and no register that was saved
    stack = "\\((%rsp|%esp|sp)\\)|\\[sp"
    if (frame_rbp) stack = stack "|\\(%rbp\\)"
    if (frame_x29) stack = stack "|\\[x29"
    for (i = 1; i <= n; i++)
        if (goal[i] in at) target[i] = at[goal[i]]
    for (i = 1; i <= n; i++) {
        if (!(i in target) || target[i] > i || !walk(target[i], i)) continue
        for (j = 1; j <= loops && head[j] != target[i]; j++) continue
        if (j > loops) loops = j
        head[j] = target[i] # of several jumps to one head the last one counts
        jump[j] = i
    }
    for (j = 1; j <= loops; j++) {
        size[j] = walk(head[j], jump[j])
        fma[j] = loads[j] = bad[j] = jumps[j] = 0
        for (i = head[j]; i <= jump[j]; i++) {
            if (!(i in body)) continue
            if (i in target) jumps[j]++
            if (op[i] ~ /^(vfn?m(add|sub|acc)|vdpbf16ps|fml[as]|fm(ad|sb)$)/) fma[j]++
            if (in_stack(i)) bad[j]++
            else if (text[i] ~ /\)(\{1to[0-9]+\})?,%[xyz]mm|^ld[a-z0-9]*\t(q|\{[vz])|^vl(e|se|seg2e)[0-9]/) loads[j]++
        }
        work[j] = fma[j] + loads[j]
    }
    for (j = 1; j <= loops; j++) {
        inner = 1
        for (i = 1; i <= loops; i++)
            if (i != j && head[i] >= head[j] && jump[i] <= jump[j] && (work[i] || !work[j])) inner = 0
        if (!inner) continue
        walk(head[j], jump[j])
        # Loops as the compiler likes them; and row_dots, which has 16 lanes in an array at the end of a row.
        own = scalable && name ~ /weights|quantize|^(rows|keys|values)_|_int8$|^row_dots$/
        hot = !(name in is_cold) && !own && name !~ /^gemm_nt/ && \
            (name ~ /gemm/ && name !~ /gemm_weights_/ ? fma[j] >= tile : name ~ /^stored_/ ? fma[j] > 0 : loads[j] > 0)
        print "loop", name, address[head[j]], size[j], fma[j], bad[j], hot ? "hot" : "other",
            jumps[j] == 1 ? "straight" : "branches"
        for (i = head[j]; i <= jump[j]; i++)
            if (i in body) print (in_stack(i) ? "! " : "  ") address[i] "\t" text[i]
    }
    n = frame_rbp = frame_x29 = 0
    split("", at); split("", goal); split("", target); split("", leaves)
}

# Products with stored elements, and those in 8 bits of several rows, keep account of more addresses than there are
# registers: only their vectors count.
function in_stack(i) {
    # Vectors without a fixed size have no offset there that is a number: an address is worked out first. On RISC-V
    # whole registers are loaded and stored; beside that only compilers' own loops do so.
    if (scalable && text[i] ~ /^add(i|vl)?\t[a-z0-9]+, ?sp/) return 1
    if (scalable && name ~ /^(gemm_[rtc]|stored_|softmax)/ && op[i] ~ /^v(s[1248]r|l[1248]re)/) return 1
    if (name ~ /^(stored|spread|dots|squares)_/) return text[i] ~ stack && text[i] ~ /%[xyz]mm|[\t ,][qz][0-9]/
    return op[i] ~ /^(push|pop|call)/ || (text[i] ~ stack && op[i] !~ /^(lea|nop)/)
}

/^[0-9a-f]+ <\.L.*>:$/ { next } # a label, which RISC-V's assemblers may keep
/^[0-9a-f]+ <.*>:$/ {
    end_function()
    name = $2
    gsub(/[<>:]/, "", name)
    sub(/\..*/, "", name) # of a part, as in gemm.part.0
    next
}
/^ +[0-9a-f]+:\t/ {
    address[++n] = $1
    sub(/:/, "", address[n])
    at[address[n]] = n
    op[n] = $2
    text[n] = $0
    sub(/^ +[0-9a-f]+:\t/, "", text[n])
    sub(/[ \t]*\/\/.*/, "", text[n])
    if ($2 ~ /^(j|b$|b\.|cbn?z$|tbn?z$|b(eq|ne|lt|ge|gt|le)u?z?$)/) # the target stands before <function+offset>
        for (i = 3; i < NF; i++)
            if ($(i + 1) ~ /^</) {
                goal[n] = $i
                sub(/.*,/, "", goal[n])
            }
    if ($2 ~ /^(jmp|j$|jr$|b$|br$|ret)/) leaves[n] = 1
    if (text[n] ~ /^mov +%rsp,%rbp/) frame_rbp = 1
    if (text[n] ~ /^(mov|add)\tx29, sp/) frame_x29 = 1
}
END { end_function() }
