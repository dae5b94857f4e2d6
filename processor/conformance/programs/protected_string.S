# REP MOVS, STOS, SCAS and CMPS, forwards, backwards and overlapping.
# mode: protected
# expect: 0x61626364 0x0 0x1004 0x10101010 0x3 0x2 0x42424242
.include "protected.inc"
main:
    movl $source, %esi
    movl $0x20000, %edi
    movl $9, %ecx
    rep movsb
    movl 0x20000, %eax
    bswap %eax
    outl %eax, $0x80
    report %ecx
    movl $0x20000, %edi
    movl $0x10101010, %eax
    movl $0x401, %ecx
    rep stosl
    subl $0x20000, %edi
    report %edi
    report 0x21000
    movl $source, %edi
    movb $'d', %al
    movl $9, %ecx
    repne scasb
    subl $source + 1, %edi
    report %edi
    movl $source, %esi
    movl $other, %edi
    movl $9, %ecx
    repe cmpsb
    subl $source + 1, %esi
    report %esi
    # Overlapping by one: fills with the first byte.
    movb $0x42, 0x20000
    movl $0x20000, %esi
    movl $0x20001, %edi
    movl $100, %ecx
    rep movsb
    report 0x20040
    finish
source: .ascii "abcdefghi"
other:  .ascii "abXdefghi"
